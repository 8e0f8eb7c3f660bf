//! Manifests of known models, sampling presets and the embedded demo model.
