use serde::{Deserialize, Serialize};

/// A model that is known by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownModel {
    /// Name on the command line.
    pub name: String,
    /// Name for people.
    pub title: String,
    /// One line for people.
    pub summary: String,
    /// The network it is.
    pub network: String,
    /// Parameters of the diffusion transformer.
    pub parameters: u64,
    /// Repository on the hub; empty for the embedded model.
    pub repository: String,
    /// Files of that repository, relative to its root.
    pub files: Vec<String>,
}

#[derive(Deserialize)]
struct File {
    model: Vec<KnownModel>,
}

const KNOWN: &str = include_str!("../manifests/known.toml");

/// All known models, the embedded one first. The table is part of the program; a test reads it.
pub fn known_models() -> Vec<KnownModel> {
    toml::from_str::<File>(KNOWN).map(|f| f.model).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_readable_and_names_are_unique() {
        let models = known_models();
        assert!(models.len() >= 3 && models[0].name == "demo");
        let mut names: Vec<_> = models.iter().map(|m| &m.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), models.len());
    }
}
