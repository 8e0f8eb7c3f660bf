use std::path::PathBuf;

/// Why a table of models cannot be used. Messages are one line whatever the table says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// A table, or the folder of tables, cannot be read.
    #[error("{path}: {problem}; name a folder of .toml files, each of at most {} KiB", super::MOST_BYTES >> 10)]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said, or what was found instead.
        problem: String,
    },
    /// A table is no TOML, or lacks a key, or has one that is none.
    #[error("{table}: {problem}; docs/models.md shows what a table looks like")]
    Toml {
        /// The table.
        table: String,
        /// What is wrong, with its line.
        problem: String,
    },
    /// What a table says of a model cannot be.
    #[error("{table}: model {model:?}: {key} is {found:?}; allowed: {allowed}")]
    Value {
        /// The table.
        table: String,
        /// The model.
        model: String,
        /// Which of its keys.
        key: &'static str,
        /// What the key has.
        found: String,
        /// What it may have.
        allowed: String,
    },
    /// Two tables of one folder, or one table twice, have a model of this name.
    #[error("{table}: model {model:?} is in {other} already; give one of them another name")]
    Twice {
        /// The second table.
        table: String,
        /// The model.
        model: String,
        /// The first table.
        other: String,
    },
    /// A model is made with something that is no model with files of its own.
    #[error("model {model:?} is made with {part:?}, which is no model with files of its own")]
    Part {
        /// The model.
        model: String,
        /// The name under `with`.
        part: String,
    },
}

impl ManifestError {
    /// What `toml` said of a table, in one line.
    pub(super) fn toml(table: &str, text: &str, error: &toml::de::Error) -> Self {
        let line = error.span().map(|span| 1 + text.bytes().take(span.start).filter(|b| *b == b'\n').count());
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        // The message quotes the table.
        let said: Vec<&str> = error.message().split(char::is_control).filter(|piece| !piece.is_empty()).collect();
        Self::Toml { table: table.to_owned(), problem: place + &said.join(" ") }
    }
}
