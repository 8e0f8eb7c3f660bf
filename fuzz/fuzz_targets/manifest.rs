//! Manifests of models, and presets.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = toml::from_str::<models::Preset>(text);
    if let Ok(model) = toml::from_str::<models::KnownModel>(text) {
        model.repositories();
    }
});
