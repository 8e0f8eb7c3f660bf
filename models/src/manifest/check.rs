//! What a table may say. Tables of one's own come from anywhere, and what they say reaches paths, addresses and terminals.

use super::{Common, ManifestError, Series};
use crate::{KnownFile, KnownModel, preset, presets};

/// Networks that a model can be.
const NETWORKS: [&str; 10] =
    ["steadydancer", "wan-t2v", "wan-i2v", "wan-vace", "umt5", "clip-vision", "wan-vae", "dwpose", "tokenizer", "lora"];
/// Longest name, in characters.
const LONGEST_NAME: usize = 64;
/// Longest text and path, in bytes.
const LONGEST_TEXT: usize = 512;
/// Most files of one model, and most models that it is made with.
const MOST_FILES: usize = 256;
const MOST_PARTS: usize = 16;

/// Checks a series before its variants are filled in, which would make long texts many.
pub(super) fn series(table: &str, series: &Series) -> Result<(), ManifestError> {
    let check = Check { table, model: &series.common.name };
    check.texts(&series.common)?;
    check.text("path", &series.path)?;
    series.variants.iter().try_for_each(|v| {
        let fits = v.quant.len() <= 32 && v.quant.chars().all(is_plain);
        check.that(fits, "quant", &v.quant, || "up to 32 letters, digits, `.`, `-` and `_`".to_owned())
    })
}

/// Checks a model of a table.
pub(super) fn model(table: &str, model: &KnownModel) -> Result<(), ManifestError> {
    let KnownModel { name, network, repository, .. } = model;
    let check = Check { table, model: name };
    let lower = |c: char| is_plain(c) && !c.is_ascii_uppercase();
    let fits = !name.is_empty() && name.len() <= LONGEST_NAME && name.chars().all(lower) && name != "demo";
    check.that(fits, "name", name, || {
        format!("up to {LONGEST_NAME} lower-case letters, digits, `.`, `-` and `_`; not demo")
    })?;
    check.that(NETWORKS.contains(&network.as_str()), "network", network, || NETWORKS.join(", "))?;
    check.that(is_repository(repository) && !model.files.is_empty(), "repository", repository, repository_rule)?;
    if let Some(wanted) = &model.preset {
        let known = || presets().into_iter().map(|p| p.name).collect::<Vec<_>>().join(", ");
        check.that(preset(wanted).is_ok(), "preset", wanted, known)?;
    }
    let most = |count: usize, most: usize, key| {
        check.that(count <= most, key, &format!("a list of {count}"), || format!("at most {most}"))
    };
    most(model.files.len(), MOST_FILES, "files")?;
    most(model.with.len(), MOST_PARTS, "with")?;
    model.files.iter().try_for_each(|f| check.file(f))
}

struct Check<'a> {
    table: &'a str,
    model: &'a str,
}

impl Check<'_> {
    fn that(
        &self,
        holds: bool,
        key: &'static str,
        found: &str,
        allowed: impl FnOnce() -> String,
    ) -> Result<(), ManifestError> {
        // A long text says no more than its beginning.
        let short = |text: &str| text.chars().take(80).collect();
        let error = || ManifestError::Value {
            table: self.table.to_owned(),
            model: short(self.model),
            key,
            found: short(found),
            allowed: allowed(),
        };
        if holds { Ok(()) } else { Err(error()) }
    }

    fn text(&self, key: &'static str, text: &str) -> Result<(), ManifestError> {
        let fits = text.len() <= LONGEST_TEXT && !text.contains(char::is_control);
        self.that(fits, key, text, || format!("one line of at most {LONGEST_TEXT} bytes"))
    }

    /// What people are shown.
    fn texts(&self, common: &Common) -> Result<(), ManifestError> {
        let Common { name, title, summary, format, licence, licence_note, note, .. } = common;
        let given = |text: &Option<String>| text.clone().unwrap_or_default();
        self.text("name", name)?;
        self.text("title", title)?;
        self.text("summary", summary)?;
        self.text("format", format)?;
        self.text("licence", licence)?;
        self.text("licence_note", &given(licence_note))?;
        self.text("note", &given(note))
    }

    fn file(&self, file: &KnownFile) -> Result<(), ManifestError> {
        let KnownFile { path, repository, of, sha256, .. } = file;
        self.text("path", path)?;
        let piece = |p: &str| !p.is_empty() && p != "." && p != "..";
        let inside = path.split('/').all(piece) && !path.contains(['\\', ':']);
        self.that(inside, "path", path, || "a relative path inside the repository, pieces separated by /".to_owned())?;
        let repository = repository.as_deref().unwrap_or("a/b");
        self.that(is_repository(repository), "repository", repository, repository_rule)?;
        // What belongs to another model is said by `with`.
        let of = of.as_deref().unwrap_or_default();
        self.that(of.is_empty(), "of", of, || "nothing; name the model under `with`".to_owned())?;
        let hash = |h: &str| h.len() == 64 && h.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let sha256 = sha256.as_deref().unwrap_or_default();
        self.that(sha256.is_empty() || hash(sha256), "sha256", sha256, || "64 digits of 0-9 and a-f".to_owned())
    }
}

/// Checks what people are shown of a model.
pub(super) fn texts(table: &str, common: &Common) -> Result<(), ManifestError> {
    Check { table, model: &common.name }.texts(common)
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || ".-_".contains(c)
}

fn is_repository(text: &str) -> bool {
    let piece = |p: &str| !p.is_empty() && !p.starts_with('.') && p.chars().all(is_plain);
    text.len() <= 96 && text.split('/').count() == 2 && text.split('/').all(piece) && !text.contains("--")
}

fn repository_rule() -> String {
    "ORGANISATION/NAME of letters, digits, - _ and ., with at least one file".to_owned()
}
