use std::path::{Path, PathBuf};

use models::{KnownModel, Part};
use weights::hub::{Cache, Found, MAIN, Wanted, WantedFile};

use crate::{ModelFiles, ModelOverrides, PipelineError};

/// A model that is known by name and whose files are all in the hub's cache.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredModel {
    known: KnownModel,
    snapshots: Vec<(String, Found)>,
}

impl StoredModel {
    /// Looks for all files of a model; those of its own repository at `revision` if one is named. Uses no network.
    /// `None` if a file is missing, and for the embedded model.
    pub fn find(known: &KnownModel, cache: &Cache, revision: Option<&str>) -> Option<Self> {
        let mut snapshots = Vec::new();
        for (repository, files) in known.repositories() {
            let names: Vec<&str> = files.iter().map(|f| f.path.as_str()).collect();
            let revision = revision.filter(|_| repository == known.repository);
            snapshots.push((repository.to_owned(), cache.snapshot(repository, revision, &names)?));
        }
        (!snapshots.is_empty()).then(|| Self { known: known.clone(), snapshots })
    }

    /// What to ask the hub for. What is known of sizes and hashes is known of `main`, so it is left out of the model's
    /// own files when a `revision` is named.
    pub fn wanted(known: &KnownModel, revision: Option<&str>) -> Vec<Wanted> {
        let of = |(repository, files): (&str, Vec<&models::KnownFile>)| {
            let revision = revision.filter(|r| *r != MAIN && repository == known.repository);
            let file = |f: &&models::KnownFile| WantedFile {
                path: f.path.clone(),
                size_bytes: f.size_bytes.filter(|_| revision.is_none()),
                sha256: f.sha256.clone().filter(|_| revision.is_none()),
            };
            Wanted {
                repository: repository.to_owned(),
                revision: revision.map(str::to_owned),
                files: files.iter().map(file).collect(),
            }
        };
        known.repositories().into_iter().map(of).collect()
    }

    /// The snapshot of the model's own repository.
    pub fn folder(&self) -> &Path {
        self.snapshots.first().map_or(Path::new(""), |(_, found)| &found.folder)
    }

    /// The snapshots that its files are in, with their repositories.
    pub fn snapshots(&self) -> &[(String, Found)] {
        &self.snapshots
    }

    /// Where the file of a part is; `None` if this model has no such part.
    pub fn part(&self, part: Part) -> Option<PathBuf> {
        let file = self.known.files.iter().find(|f| f.part == part)?;
        let repository = file.repository.as_deref().unwrap_or(&self.known.repository);
        let (_, found) = self.snapshots.iter().find(|(r, _)| r == repository)?;
        Some(found.folder.join(&file.path))
    }

    /// Its parts as a model that can be opened; `overrides` come first.
    ///
    /// # Errors
    /// It has no diffusion transformer, or another part is missing.
    pub fn model_files(&self, overrides: &ModelOverrides) -> Result<ModelFiles, PipelineError> {
        let transformer = self.part(Part::Transformer).ok_or_else(|| PipelineError::Model {
            path: self.known.name.clone().into(),
            problem: "it has no diffusion transformer; --model takes one that has".to_owned(),
        })?;
        let part = |given: &Option<PathBuf>, part: Part| given.clone().or_else(|| self.part(part));
        let parts = ModelOverrides {
            vae: part(&overrides.vae, Part::Vae),
            text_encoder: part(&overrides.text_encoder, Part::TextEncoder),
            image_encoder: part(&overrides.image_encoder, Part::ImageEncoder),
            tokenizer: part(&overrides.tokenizer, Part::Tokenizer),
        };
        ModelFiles::find(&transformer, &parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn known(name: &str) -> KnownModel {
        models::known_models().into_iter().find(|m| m.name == name).unwrap()
    }

    fn store(root: &Path, repository: &str, file: &str) -> PathBuf {
        let folder = root.join(format!("models--{}", repository.replace('/', "--")));
        let path = folder.join("snapshots").join(COMMIT).join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::create_dir_all(folder.join("refs")).unwrap();
        std::fs::write(&path, "").unwrap();
        std::fs::write(folder.join("refs/main"), COMMIT).unwrap();
        path
    }

    #[test]
    fn a_model_is_there_when_every_file_of_every_repository_is() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path());
        let model = known("steadydancer-14b-fp16");
        let mut paths = Vec::new();
        for file in &model.files {
            assert_eq!(StoredModel::find(&model, &cache, None), None);
            paths.push(store(root.path(), file.repository.as_ref().unwrap_or(&model.repository), &file.path));
        }
        let stored = StoredModel::find(&model, &cache, None).unwrap();
        assert_eq!(stored.folder(), root.path().join("models--Kijai--WanVideo_comfy/snapshots").join(COMMIT));
        assert_eq!(StoredModel::find(&model, &cache, Some("v2")), None);
        assert!(StoredModel::find(&model, &cache, Some(COMMIT)).is_some());

        let files = stored.model_files(&ModelOverrides::default()).unwrap();
        assert_eq!([files.dit, files.vae.clone(), files.text_encoder, files.image_encoder, files.tokenizer], *paths);
        let own = ModelOverrides { vae: Some("own.pth".into()), ..ModelOverrides::default() };
        assert_eq!(stored.model_files(&own).unwrap().vae, Path::new("own.pth"));
    }

    #[test]
    fn helpers_have_parts_but_are_no_models_to_open() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path());
        let model = known("dwpose");
        let paths: Vec<_> = model.files.iter().map(|f| store(root.path(), &model.repository, &f.path)).collect();
        let stored = StoredModel::find(&model, &cache, None).unwrap();
        assert_eq!([stored.part(Part::Detector).unwrap(), stored.part(Part::Estimator).unwrap()], *paths);
        assert_eq!(stored.part(Part::Vae), None);
        assert!(stored.model_files(&ModelOverrides::default()).is_err());
        assert_eq!(StoredModel::find(&known("demo"), &cache, None), None);
    }

    #[test]
    fn one_name_asks_for_all_that_a_run_needs() {
        let animating: Vec<_> =
            models::known_models().into_iter().filter(|m| m.animates() && m.name != "demo").collect();
        assert!(animating.len() >= 11);
        for model in animating {
            let (root, wanted) = (tempfile::tempdir().unwrap(), StoredModel::wanted(&model, None));
            for w in &wanted {
                w.files.iter().for_each(|f| drop(store(root.path(), &w.repository, &f.path)));
            }
            let stored = StoredModel::find(&model, &Cache::new(root.path()), None).unwrap();
            let files = stored.model_files(&ModelOverrides::default()).unwrap();
            for path in [&files.dit, &files.vae, &files.text_encoder, &files.image_encoder, &files.tokenizer] {
                assert!(path.is_file(), "{}: {}", model.name, path.display());
            }
        }
        let repositories = |name: &str| StoredModel::wanted(&known(name), None).len();
        assert_eq!((repositories("steadydancer-14b"), repositories("steadydancer-14b-fp8")), (2, 3));
    }

    #[test]
    fn what_is_known_of_main_is_not_asked_of_another_revision() {
        let model = known("dwpose");
        assert!(StoredModel::wanted(&model, None)[0].files.iter().all(|f| f.sha256.is_some()));
        let other = StoredModel::wanted(&model, Some("v2"));
        assert_eq!(other[0].revision.as_deref(), Some("v2"));
        assert!(other[0].files.iter().all(|f| f.sha256.is_none() && f.size_bytes.is_none()));
        assert_eq!(StoredModel::wanted(&model, Some("main")), StoredModel::wanted(&model, None));
        let two = StoredModel::wanted(&known("steadydancer-14b"), Some("v2"));
        assert_eq!((two.len(), two[1].revision.as_deref()), (2, None));
    }
}
