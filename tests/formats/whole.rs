//! Whole models by writers that are not ours, which `tests/reference/check_forms.py` makes of the demo's transformer, and the
//! velocity that the network computes with each:
//!
//! ```text
//! python tests/reference/check_forms.py target/debug/steadydance DIR
//! STEADYDANCE_FORMS=DIR cargo test --test formats -- --ignored --nocapture
//! ```

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{error, velocity};

/// Tokens of a prompt of the demo.
const TEXT_LEN: usize = 64;
/// How far the velocity may be from that of the same numbers in f32: sums over decoded tiles are in another order.
const ROUNDING: f64 = 1e-5;
/// How much larger the velocity's error may be than the worst matrix's, and what plain rounding may add.
const GROWTH: f64 = 3.0;
const FLOOR: f64 = 1e-5;

/// A file of the folder.
#[derive(Deserialize)]
struct Whole {
    name: String,
    writer: String,
    /// Relative error of its worst matrix.
    weights: f64,
}

#[test]
#[ignore = "needs the files of tests/reference/check_forms.py in STEADYDANCE_FORMS"]
fn whole_models_of_other_writers_compute_what_their_numbers_say() {
    let folder: PathBuf = std::env::var_os("STEADYDANCE_FORMS").expect("STEADYDANCE_FORMS names the folder").into();
    let list: Vec<Whole> =
        serde_json::from_str(&std::fs::read_to_string(folder.join("forms.json")).expect("forms.json")).unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/dit.safetensors");
    let exact = velocity(&demo, TEXT_LEN).unwrap();
    let mut wrong = Vec::new();
    for Whole { name, writer, weights } in &list {
        let got = velocity(&folder.join(name), TEXT_LEN).unwrap();
        let same = velocity(&folder.join(format!("{name}.expected.safetensors")), TEXT_LEN).unwrap();
        let [decoded, cost] = [&same, &exact].map(|want| error(&got, want).unwrap());
        println!("| `{name}` | {writer} | {weights:.1e} | {cost:.1e} | {decoded:.0e} |");
        if decoded > ROUNDING || cost > GROWTH * weights + FLOOR {
            wrong.push(name);
        }
    }
    assert!(list.len() >= 30 && wrong.is_empty(), "of {} forms these are wrong: {wrong:?}", list.len());
}
