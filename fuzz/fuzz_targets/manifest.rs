//! Tables of models, as a user's folder has them. Its input is the text of one.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match models::known_models_with(&[("fuzzed".to_owned(), text.to_owned())]) {
        Ok(known) => known.iter().for_each(|model| {
            model.repositories();
            model.size_bytes();
        }),
        Err(error) => fuzz::one_line(error),
    }
});
