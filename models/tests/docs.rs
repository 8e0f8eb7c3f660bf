//! The table in `docs/models.md` is what the manifests say. `STEADYDANCE_WRITE_DOCS=1 cargo test -p steadydance-models`
//! writes it anew.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use models::{KnownFile, KnownModel, known_models, known_models_with};

const BEGIN: &str = "<!-- names: written by models/tests/docs.rs -->\n";
const END: &str = "<!-- end of names -->\n";

const SECTIONS: [(&str, &[&str]); 6] = [
    ("Models that make clips", &["steadydancer"]),
    ("Poses", &["dwpose"]),
    ("LoRAs that save steps", &["lora"]),
    ("Wan 2.1 and VACE", &["wan-t2v", "wan-i2v", "wan-vace"]),
    ("Encoders and tokenizer", &["umt5", "clip-vision", "tokenizer"]),
    ("VAE", &["wan-vae"]),
];

/// Size in GB, and whether it is exact; `None` where a file's is not known. JSON files beside weights do not count.
fn size(files: &[&KnownFile]) -> Option<(bool, f64)> {
    let weights: Vec<_> = files.iter().filter(|f| !f.path.ends_with(".json")).copied().collect();
    let counted = if weights.is_empty() { files } else { &weights };
    let told = |f: &&KnownFile| f.size_bytes.map(|b| (true, b as f64 / 1e9)).or(f.about_gb.map(|gb| (false, gb)));
    counted.iter().map(told).try_fold((true, 0.0), |(exact, sum), size| size.map(|(e, gb)| (exact && e, sum + gb)))
}

fn shown(size: Option<(bool, f64)>) -> String {
    match size {
        Some((true, gb)) if gb < 0.1 => format!("{:.0} MB", gb * 1e3),
        Some((true, gb)) => format!("{gb:.2} GB"),
        Some((false, gb)) => format!("≈ {gb:.1} GB"),
        None => "not known".to_owned(),
    }
}

fn row(m: &KnownModel) -> String {
    let own: Vec<&KnownFile> = m.files.iter().filter(|f| f.of.is_none()).collect();
    let file = match own.as_slice() {
        [one] => format!("`{}`", one.path),
        many => format!("{} files", many.len()),
    };
    let with: Vec<_> = m.with.iter().map(|w| format!("`{w}`")).collect();
    let with = if with.is_empty() { String::new() } else { format!(" + {}", with.join(", ")) };
    let held = m.held_gb.map(|gb| format!("{gb} GB")).unwrap_or_default();
    let preset = m.preset.as_ref().map(|p| format!("`{p}`")).unwrap_or_default();
    let size = shown(size(&own));
    let mark = if m.licence_note.is_some() { "\\*" } else { "" };
    format!(
        "| `{}` | {} | [{r}](https://huggingface.co/{r}) {file}{with} | {size} | {held} | {}{mark} | {preset} |\n",
        m.name,
        m.title,
        m.licence,
        r = m.repository
    )
}

fn table() -> String {
    let models: Vec<KnownModel> = known_models().into_iter().filter(|m| !m.repository.is_empty()).collect();
    let mut text = String::new();
    for (title, networks) in SECTIONS {
        let _ = write!(
            text,
            "### {title}\n| name | what it is | files | own files | held whole | licence | preset |\n|---|---|---|---|---|---|---|\n"
        );
        let of: Vec<_> = models.iter().filter(|m| networks.contains(&m.network.as_str())).collect();
        of.iter().for_each(|m| text += &row(m));
        let notes: BTreeSet<String> = of
            .iter()
            .flat_map(|m| {
                let licence = m.licence_note.iter().map(|n| format!("\\* {}: {n}", m.licence));
                licence.chain(m.note.iter().map(|n| format!("{}: {n}", m.files[0].path.replace(&quant(m), "…"))))
            })
            .collect();
        text.push('\n');
        for note in notes {
            let _ = writeln!(text, "- {note}");
        }
        text.push('\n');
    }
    text
}

/// The part of a file's name that differs within a series.
fn quant(m: &KnownModel) -> String {
    m.format.strip_prefix("GGUF ").unwrap_or("\0").to_owned()
}

#[test]
fn every_name_is_in_a_section() {
    let all: Vec<&str> = SECTIONS.iter().flat_map(|(_, networks)| networks.iter().copied()).collect();
    for m in known_models() {
        assert!(all.contains(&m.network.as_str()), "{}: {}", m.name, m.network);
    }
}

#[test]
fn the_page_says_what_the_manifests_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/models.md");
    let page = fs::read_to_string(&path).unwrap();
    let (head, rest) = page.split_once(BEGIN).expect("the page has the mark of the table");
    let (found, tail) = rest.split_once(END).expect("the page has the mark of the table's end");
    let expected = table();
    if std::env::var_os("STEADYDANCE_WRITE_DOCS").is_some() {
        return fs::write(&path, format!("{head}{BEGIN}{expected}{END}{tail}")).unwrap();
    }
    let line = found.lines().zip(expected.lines()).find(|(a, b)| a != b);
    assert!(
        found == expected,
        "docs/models.md is not what the manifests say, first at {line:?}; write it anew with STEADYDANCE_WRITE_DOCS=1"
    );
}

#[test]
fn the_pages_table_of_ones_own_is_one() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/models.md")).unwrap();
    let (_, rest) = page.split_once("```toml\n").expect("the page has a table");
    let table = rest.split("```").next().unwrap().replace('…', &"0".repeat(64));
    let models = known_models_with(&[("docs/models.md".to_owned(), table)]).unwrap_or_else(|e| panic!("{e}"));
    let own = models.last().unwrap();
    assert!(own.animates() && own.files.len() == 5, "{own:?}");
}
