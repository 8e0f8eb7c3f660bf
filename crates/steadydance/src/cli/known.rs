//! Models by name: those of the program's tables, with the user's own over them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use steadydance::{KnownModel, known_models, known_models_with_folder};

use super::failure::Failure;

/// The folder of the user's tables beside their `config.toml`.
const FOLDER: &str = "manifests";

static MODELS: OnceLock<Vec<KnownModel>> = OnceLock::new();

/// Reads the tables once, before anything asks for a name: those of `folder`, or of the folder in the user's configuration.
///
/// # Errors
/// The folder that was named is not there, or a table cannot be used.
pub fn load(folder: Option<&Path>) -> Result<(), Failure> {
    // An empty variable is none.
    let named = folder.filter(|f| !f.as_os_str().is_empty()).map(Path::to_owned);
    if let Some(folder) = named.or_else(user_folder) {
        let models = known_models_with_folder(&folder).map_err(Failure::usage)?;
        // A program reads its tables once.
        let _ = MODELS.set(models);
    }
    Ok(())
}

fn user_folder() -> Option<PathBuf> {
    let folder = directories::ProjectDirs::from("", "", "steadydance")?.config_dir().join(FOLDER);
    folder.is_dir().then_some(folder)
}

/// All of them.
pub fn models() -> &'static [KnownModel] {
    MODELS.get_or_init(known_models)
}

/// The one of that name.
pub fn find(name: &str) -> Option<&'static KnownModel> {
    models().iter().find(|m| m.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_folder_name_is_none_and_a_wrong_one_is_told() {
        assert!(find("steadydancer-14b").is_some() && find("nonsense").is_none());
        assert!(load(Some(Path::new(""))).is_ok());
        assert!(load(Some(Path::new("no/such"))).unwrap_err().message.contains("no/such"));
    }
}
