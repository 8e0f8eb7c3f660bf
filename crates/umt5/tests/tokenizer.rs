//! Ids against the fixture that ftfy and transformers made, and what odd input does.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use umt5::{Tokenizer, TokenizerError};

#[derive(Deserialize)]
struct Prompt {
    language: String,
    prompt: String,
    cleaned: String,
    ids: Vec<u32>,
}

/// `STEADYDANCE_TOKENIZER_FIXTURE`, else `tests/fixtures/tokenizer` of the workspace.
fn fixture() -> Option<PathBuf> {
    let dir = match std::env::var_os("STEADYDANCE_TOKENIZER_FIXTURE") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tokenizer"),
    };
    let there = dir.join("prompts.json").is_file();
    if !there {
        println!("skipped: no tokenizer fixture at {}", dir.display());
    }
    there.then_some(dir)
}

#[test]
fn ids_of_transformers() {
    let Some(dir) = fixture() else { return };
    let tokenizer = Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
    let prompts: Vec<Prompt> = serde_json::from_slice(&std::fs::read(dir.join("prompts.json")).unwrap()).unwrap();
    assert!(!prompts.is_empty());
    for p in &prompts {
        assert_eq!(umt5::clean(&p.prompt), p.cleaned, "{}: {:?}", p.language, p.prompt);
        assert_eq!(tokenizer.encode(&p.prompt, 512).unwrap(), p.ids, "{}: {:?}", p.language, p.prompt);
    }
    for default in [umt5::DEFAULT_NEGATIVE_PROMPT_I2V, umt5::DEFAULT_NEGATIVE_PROMPT_T2V] {
        assert!(prompts.iter().any(|p| p.prompt == default), "the fixture lacks {default}");
    }
    println!("{} prompts agree", prompts.len());
}

#[test]
fn huge_and_short_limits() {
    let Some(dir) = fixture() else { return };
    let tokenizer = Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
    let end = tokenizer.encode("", 512).unwrap();
    assert_eq!(end.len(), 1);
    assert!((end[0] as usize) < tokenizer.vocab_size());
    let sentence = "A young woman in a red dress is dancing slowly on the beach. ";
    for text in [
        sentence.repeat((1 << 20) / sentence.len()),
        "x".repeat(1 << 20),
        "镜头晃动，色调艳丽".repeat((1 << 20) / 27),
        "schÃ¶n ".repeat((1 << 20) / 9),
        "\u{1f483}\u{200d}".repeat((1 << 20) / 7),
        "&amp;".repeat((1 << 20) / 5),
        " ".repeat(1 << 20),
        "\u{0}\u{1b}[".repeat(1 << 18),
    ] {
        let ids = tokenizer.encode(&text, 512).unwrap();
        assert!(ids.len() <= 512);
        assert_eq!(ids.last(), end.last());
    }
    // Taking only the beginning of a long text into account must not show.
    let long = tokenizer.encode(&sentence.repeat(40_000), 100_000).unwrap();
    for limit in [1, 2, 17, 512, 5000] {
        let cut = tokenizer.encode(&sentence.repeat(40_000), limit).unwrap();
        assert_eq!(cut[..limit - 1], long[..limit - 1]);
        assert_eq!((cut.len(), cut[limit - 1]), (limit, end[0]));
    }
    assert!(matches!(tokenizer.encode("x", 0), Err(TokenizerError::Encode { .. })));
}

#[test]
fn damaged_files_are_errors() {
    for bad in [&b""[..], b"{}", b"not json", b"{\"version\":\"1.0\",\"model\":{\"type\":\"Unigram\"}}", b"\xff\xfe"] {
        let Err(error) = Tokenizer::from_bytes(bad) else { panic!("{bad:?} was read") };
        assert!(matches!(error, TokenizerError::Invalid { .. }), "{error}");
        assert!(error.to_string().contains("umt5-xxl"));
    }
    // Character maps that the library itself does not survive: none, too short, an offset outside.
    for map in ["", "/////w==", "BAAAAP////8="] {
        let text = format!(
            r#"{{"version":"1.0","normalizer":{{"type":"Precompiled","precompiled_charsmap":"{map}"}},
                "model":{{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["</s>",0.0]]}}}}"#
        );
        let Err(error) = Tokenizer::from_bytes(text.as_bytes()) else { panic!("{map:?} was read") };
        assert!(error.to_string().contains("character map is damaged"), "{error}");
    }
    let no_end = br#"{"version":"1.0","model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["a",-1.0]]}}"#;
    assert!(matches!(Tokenizer::from_bytes(no_end), Err(TokenizerError::NoEnd { .. })));
    let absent = Tokenizer::from_file("no/such/tokenizer.json");
    assert!(matches!(absent, Err(TokenizerError::Read { .. })));
    let Some(dir) = fixture() else { return };
    let whole = std::fs::read(dir.join("tokenizer.json")).unwrap();
    for cut in [whole.len() / 3, whole.len() - 2] {
        assert!(matches!(Tokenizer::from_bytes(&whole[..cut]), Err(TokenizerError::Invalid { .. })));
    }
}
