use super::*;
use std::collections::HashSet;

fn all() -> Vec<KnownModel> {
    read_all().unwrap_or_else(|e| panic!("{e}"))
}

fn model(name: &str) -> KnownModel {
    all().into_iter().find(|m| m.name == name).unwrap_or_else(|| panic!("{name}"))
}

#[test]
fn every_table_is_read_and_names_are_unique_and_plain() {
    let models = all();
    assert!(models.len() > 80 && models[0].name == "demo", "{}", models.len());
    assert_eq!(crate::known_models(), models);
    assert_eq!(with(&[]).unwrap(), models);
    let names: HashSet<_> = models.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names.len(), models.len());
    for m in &models {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
        assert!(m.name.chars().all(plain) && m.name.len() <= 40, "{}", m.name);
        for text in [&m.title, &m.summary, &m.format, &m.licence] {
            assert!(!text.is_empty() && !text.contains(['{', '\n', '|']), "{}: {text:?}", m.name);
        }
    }
}

#[test]
fn nothing_is_said_twice_and_what_is_missing_is_said() {
    for m in all() {
        assert!(m.held_gb.is_none_or(|gb| gb > 0.0 && gb < 100.0), "{}", m.name);
        let paths: HashSet<_> = m.files.iter().map(|f| (m.repository_of(f), &f.path)).collect();
        assert_eq!(paths.len(), m.files.len(), "{} names a file twice", m.name);
        for f in &m.files {
            let what = format!("{} {}", m.name, f.path);
            assert_eq!(f.size_bytes.is_none(), f.unknown.contains(&Fact::Size), "{what}");
            assert_eq!(f.sha256.is_none(), f.unknown.contains(&Fact::Sha256), "{what}");
            assert!(f.size_bytes.is_none() || f.about_gb.is_none(), "{what}: two sizes");
            assert!(f.about_gb.is_none_or(|gb| gb > 0.0 && gb < 100.0), "{what}");
            let hash = |h: &String| h.len() == 64 && h.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            assert!(f.sha256.as_ref().is_none_or(hash), "{what}");
            let piece = |p: &str| !p.is_empty() && p != "." && p != "..";
            assert!(f.path.split('/').all(piece) && !f.path.contains(['{', '\\', ':']), "{what}");
        }
    }
}

#[test]
fn the_same_file_has_the_same_facts_everywhere() {
    let models = all();
    let mut seen = std::collections::HashMap::new();
    for m in models.iter().filter(|m| !m.files.is_empty()) {
        for f in &m.files {
            let facts = (f.size_bytes, f.sha256.clone(), f.part);
            let known = seen.entry((m.repository_of(f).to_owned(), f.path.clone())).or_insert(facts.clone());
            assert_eq!(*known, facts, "{} {}", m.name, f.path);
        }
    }
}

#[test]
fn every_model_on_the_hub_is_complete() {
    use Part::*;
    for m in all().iter().filter(|m| !m.repository.is_empty()) {
        let needed: &[Part] = match m.network.as_str() {
            "steadydancer" | "wan-i2v" => &[Transformer, Vae, TextEncoder, ImageEncoder, Tokenizer],
            "wan-t2v" | "wan-vace" => &[Transformer, Vae, TextEncoder, Tokenizer],
            "umt5" => &[TextEncoder],
            "clip-vision" => &[ImageEncoder],
            "wan-vae" => &[Vae],
            "tokenizer" => &[Tokenizer],
            "dwpose" => &[Detector, Estimator],
            "lora" => &[Lora],
            other => panic!("{}: {other}", m.name),
        };
        let count = |part: Part| m.files.iter().filter(|f| f.part == part).count();
        for part in needed {
            assert_eq!(count(*part), 1, "{} {part:?}", m.name);
        }
        let optional = count(TransformerShard) + count(Config);
        assert_eq!(m.files.len(), needed.len() + optional, "{} has a part that its network has not", m.name);
        assert!(m.repository.split('/').count() == 2, "{}", m.repository);
        let repositories = m.repositories();
        assert_eq!(repositories[0].0, m.repository);
        assert_eq!(repositories.iter().map(|(_, files)| files.len()).sum::<usize>(), m.files.len());
    }
}

#[test]
fn shards_are_complete_and_presets_exist() {
    for m in all() {
        let shards: Vec<_> = m.files.iter().filter(|f| f.part == Part::TransformerShard).collect();
        for (i, shard) in shards.iter().enumerate() {
            let end = format!("-{:05}-of-{:05}.safetensors", i + 1, shards.len());
            assert!(shard.path.ends_with(&end), "{} {}", m.name, shard.path);
        }
        if let Some(preset) = &m.preset {
            crate::preset(preset).unwrap_or_else(|e| panic!("{}: {e}", m.name));
        }
        let settings = m.preset.is_some() || m.note.is_some();
        assert!(settings || !["lora", "steadydancer"].contains(&m.network.as_str()), "{}", m.name);
    }
}

#[test]
fn a_series_is_one_model_for_each_variant() {
    let m = model("steadydancer-14b-q5_k_m");
    assert_eq!((m.format.as_str(), m.files[0].of.as_ref()), ("GGUF Q5_K_M", None));
    assert_eq!(m.files[0].path, "Wan21_I2V_SteadyDancer_fp16-Q5_K_M_fix_5d_tensor.gguf");
    assert_eq!(m.files.len(), 5);
    let tokenizer = m.files.iter().find(|f| f.part == Part::Tokenizer).unwrap();
    assert_eq!(m.repository_of(tokenizer), "Wan-AI/Wan2.1-T2V-1.3B");
    assert_eq!(tokenizer.of.as_deref(), Some("umt5-tokenizer"));
}

#[test]
fn files_of_ones_own_repository_name_none() {
    let m = model("wan2.1-t2v-1.3b");
    assert!(m.files.iter().all(|f| f.repository.is_none()), "{:?}", m.files);
    assert_eq!(m.repositories().len(), 1);
}

#[test]
fn sizes_are_summed_only_when_all_are_known_and_can_be() {
    let of = |name: &str| model(name).size_bytes();
    assert_eq!((of("dwpose"), of("steadydancer-14b")), (Some(351_145_849), None));
    let mut vast = model("dwpose");
    vast.files.iter_mut().for_each(|f| f.size_bytes = Some(u64::MAX / 2));
    assert_eq!(vast.size_bytes(), Some(u64::MAX - 1));
    vast.files[0].size_bytes = Some(u64::MAX);
    assert_eq!(vast.size_bytes(), None);
}

#[test]
fn a_part_that_is_none_is_an_error() {
    let mut broken = model("wan2.1-vae");
    broken.with = vec!["none".to_owned()];
    let error = add_parts(vec![broken]).unwrap_err().to_string();
    assert!(error.contains("wan2.1-vae") && error.contains("\"none\""), "{error}");
}

/// A table of one model and a series of two.
const OWN: &str = r#"
[[model]]
name = "mine"
title = "My model"
summary = "for tests"
network = "steadydancer"
format = "bf16"
repository = "me/mine"
licence = "MIT"
with = ["wan2.1-vae", "umt5-tokenizer", "mine-q4_0"]
[[model.files]]
path = "dit.safetensors"
part = "transformer"

[[series]]
name = "mine-{quant}"
title = "Encoder, {QUANT}"
summary = "for tests"
network = "umt5"
format = "GGUF {QUANT}"
repository = "me/encoders"
licence = "MIT"
path = "encoder-{QUANT}.gguf"
part = "text-encoder"
variants = [{ quant = "Q4_0" }, { quant = "Q8_0" }]
"#;

fn with(tables: &[&str]) -> Result<Vec<KnownModel>, ManifestError> {
    let named = tables.iter().enumerate().map(|(i, text)| (format!("{i}.toml"), (*text).to_owned()));
    known_models_with(&named.collect::<Vec<_>>())
}

#[test]
fn tables_of_ones_own_follow_the_built_in_ones_and_may_use_them() {
    let models = with(&[OWN]).unwrap();
    assert_eq!(models.len(), all().len() + 3);
    let mine = models.iter().find(|m| m.name == "mine").unwrap();
    let parts: Vec<_> = mine.files.iter().map(|f| (mine.repository_of(f), f.of.as_deref())).collect();
    let vae = model("wan2.1-vae").repository;
    assert_eq!(parts[0], ("me/mine", None));
    assert_eq!(parts[1], (vae.as_str(), Some("wan2.1-vae")));
    assert_eq!(parts[3], ("me/encoders", Some("mine-q4_0")));
    assert!(mine.animates());
}

#[test]
fn a_model_of_ones_own_takes_the_place_of_a_built_in_one_and_within_others() {
    let text = "[[model]]\nname = \"umt5-tokenizer\"\ntitle = \"t\"\nsummary = \"s\"\nnetwork = \"tokenizer\"\nformat = \"json\"\n\
        repository = \"mirror/umt5\"\nlicence = \"MIT\"\nfiles = [{ path = \"t.json\", part = \"tokenizer\" }]";
    let models = with(&[text]).unwrap();
    assert_eq!(models.len(), all().len());
    let fp8 = models.iter().find(|m| m.name == "steadydancer-14b-fp8").unwrap();
    let tokenizer = fp8.files.iter().find(|f| f.part == Part::Tokenizer).unwrap();
    assert_eq!((fp8.repository_of(tokenizer), tokenizer.path.as_str()), ("mirror/umt5", "t.json"));
    // Its own files are as they were; those of the mirror are not the table's.
    assert!(fp8.is_built_in());
    assert!(models.iter().filter(|m| !m.is_built_in()).map(|m| m.name.as_str()).eq(["umt5-tokenizer"]));
}

#[test]
fn what_a_table_may_not_say_is_told_in_one_line() {
    for (from, to, mentions) in [
        ("name = \"mine\"", "name = \"Mine\"", ["name is \"Mine\"", "lower-case"]),
        ("name = \"mine\"", "name = \"../x\"", ["\"../x\"", "lower-case"]),
        ("name = \"mine\"", "name = \"demo\"", ["\"demo\"", "not demo"]),
        ("\"steadydancer\"", "\"steadydancers\"", ["network is \"steadydancers\"", "wan-vae"]),
        ("\"me/mine\"", "\"https://x/y\"", ["repository is", "ORGANISATION/NAME"]),
        ("\"dit.safetensors\"", "\"../../etc/passwd\"", ["path is", "inside the repository"]),
        ("\"dit.safetensors\"", "\"C:\\\\x\"", ["path is", "inside the repository"]),
        ("part = \"transformer\"", "part = \"transformer\"\nsha256 = \"AB\"", ["sha256 is \"AB\"", "64 digits"]),
        ("part = \"transformer\"", "part = \"engine\"", ["line 13", "engine"]),
        ("part = \"transformer\"", "part = \"a\\nb\\u001b[1m\"", ["line 13", "a b [1m"]),
        ("part = \"transformer\"", "of = \"x\"\npart = \"transformer\"", ["of is \"x\"", "`with`"]),
        ("\"My model\"", "\"My\\nmodel\"", ["title is \"My\\nmodel\"", "one line"]),
        ("licence = \"MIT\"", "license = \"MIT\"", ["line 2", "licence"]),
        ("format = \"bf16\"", "format = \"bf16\"\nheld = 3", ["\"held\"", "held_gb"]),
        ("format = \"bf16\"", "format = \"bf16\"\npreset = \"best\"", ["preset is \"best\"", "official"]),
        ("\"wan2.1-vae\"", "\"wan2.1-vea\"", ["\"mine\"", "\"wan2.1-vea\""]),
        ("\"wan2.1-vae\"", "\"mine\"", ["\"mine\" is made with \"mine\"", "files of its own"]),
        ("quant = \"Q4_0\"", "quant = \"Q4/0\"", ["quant is \"Q4/0\"", "letters"]),
        ("mine-{quant}", "mine", ["0.toml: model \"mine\" is in 0.toml already", "another name"]),
    ] {
        assert!(OWN.contains(from), "{from}");
        let message = with(&[&OWN.replacen(from, to, 1)]).unwrap_err().to_string();
        assert!(mentions.iter().all(|m| message.contains(m)), "{to}: {message}");
        assert!(!message.contains(char::is_control), "{message:?}");
    }
    let message = with(&[OWN, OWN]).unwrap_err().to_string();
    assert!(message.contains("1.toml: model \"mine\" is in 0.toml already"), "{message}");
    let no_files = OWN.replace("[[model.files]]\npath = \"dit.safetensors\"\npart = \"transformer\"", "files = []");
    assert!(with(&[&no_files]).unwrap_err().to_string().contains("at least one file"));
}

#[test]
fn tables_do_not_grow_without_bound() {
    let variants: String = (0..MOST_MODELS + 1).map(|i| format!("{{ quant = \"{i}\" }},")).collect();
    let many = OWN.replace("{ quant = \"Q4_0\" }", variants.trim_end_matches(','));
    assert!(with(&[&many]).unwrap_err().to_string().contains("more than 1024 models"));
    let long = OWN.replace("Encoder, {QUANT}", &"{QUANT}".repeat(100));
    assert!(with(&[&long]).unwrap_err().to_string().contains("at most 512 bytes"));
}

#[test]
fn folders_give_their_tables_in_order_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    assert_eq!(known_models_with_folder(folder.path()).unwrap(), all());
    write(
        "b.toml",
        &OWN.replace("\"mine\"", "\"last\"").replace("mine-{quant}", "other-{quant}").replace("mine-q4_0", "mine-q8_0"),
    );
    write("a.toml", OWN);
    write("notes.txt", "no table");
    let models = known_models_with_folder(folder.path()).unwrap();
    assert_eq!((models.len(), models.last().unwrap().name.as_str()), (all().len() + 6, "other-q8_0"));
    write("c.toml", &"#".repeat(MOST_BYTES as usize + 1));
    let message = known_models_with_folder(folder.path()).unwrap_err().to_string();
    assert!(message.contains("c.toml") && message.contains("too large") && message.contains("1024 KiB"), "{message}");
    let message = known_models_with_folder(&folder.path().join("none")).unwrap_err().to_string();
    assert!(message.contains("none") && message.contains("folder of .toml"), "{message}");
}
