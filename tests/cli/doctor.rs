//! `doctor`: what it tells of this machine, and its exit codes.

use std::fs;

use serde_json::Value;

use crate::support::{Sandbox, fixture};

#[test]
fn it_tells_the_machine_in_lines_and_as_json() {
    let sandbox = Sandbox::new();
    let variables = [("HF_TOKEN", "hf_verysecret"), ("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", "http://mirror.invalid")];
    let json = sandbox.run_with(&["doctor", "--json", "--no-disk-speed"], &variables);
    let found = json.json();
    assert_eq!((&found["problem"], &found["disk"]["read"]), (&Value::Null, &Value::Null));
    assert_eq!(found["version"], env!("CARGO_PKG_VERSION"));
    assert!(found["cpu"]["threads"].as_u64().unwrap() >= 1);
    let level = found["cpu"]["instruction_set"].as_str().unwrap();
    assert!(["AVX-512 BF16", "AVX-512 VNNI", "AVX-512", "AVX2", "portable"].contains(&level), "{level}");
    let bytes = |key: &str| found["memory"][key].as_u64().unwrap();
    assert!(bytes("available_bytes") > 0 && bytes("available_bytes") <= bytes("total_bytes"));
    let models = found["models"].as_array().unwrap();
    let [demo, published @ ..] = models.as_slice() else { panic!("{models:?}") };
    assert_eq!((&demo["name"], &demo["embedded"], &demo["here"]), (&"demo".into(), &true.into(), &true.into()));
    assert_eq!(demo["verdict"]["verdict"], "fits");
    assert!(published.len() >= 11 && published.iter().all(|m| m["here"] == false && !m["verdict"].is_null()));
    let outputs = found["codecs"]["outputs"].as_array().unwrap();
    assert_eq!(outputs.iter().map(|o| o["kind"].as_str().unwrap()).collect::<Vec<_>>(), ["mp4", "webm", "gif", "png"]);
    let hub = &found["hub"];
    assert_eq!((&hub["has_token"], &hub["offline"], &hub["cache_bytes"]), (&true.into(), &true.into(), &0.into()));

    let told = sandbox.run_with(&["doctor", "--no-disk-speed"], &variables);
    for text in [
        "CPU ",
        level,
        "GPU       ",
        " available of ",
        "avcodec ",
        ".mp4: ",
        "http://mirror.invalid",
        "token: yes",
        "demo ",
        "steadydancer-14b-fp8",
        "! no large model is here; `steadydance models list`",
        "`steadydance models pull dwpose`",
        "! HF_HUB_OFFLINE is set",
    ] {
        assert!(told.ok().contains(text), "{text:?} in\n{}", told.stdout);
    }
    for outcome in [&json, &told] {
        assert!(!outcome.stdout.contains("verysecret") && !outcome.stderr.contains("verysecret"));
    }
}

#[cfg(unix)]
#[test]
fn a_demo_that_would_not_run_is_code_1() {
    let sandbox = Sandbox::new();
    let gone = sandbox.work("gone");
    let variables = [("TMPDIR", gone.to_str().unwrap())];
    let failed = sandbox.run_with(&["doctor", "--no-disk-speed", "--json"], &variables);
    failed.fails_with_output(1, &["the demo would not run", "TMPDIR"]);
    let found: Value = serde_json::from_str(&failed.stdout).unwrap();
    assert!(found["problem"].as_str().unwrap().contains("TMPDIR"));
    assert_eq!(found["problem"], found["warnings"][0]);
}

#[test]
fn models_of_ones_own_are_judged_by_their_files() {
    let sandbox = Sandbox::new();
    let (commit, repository) = (testkit::hub::COMMIT, "me/tiny");
    let names = [
        ("diffusion_pytorch_model.safetensors.index.json", "transformer"),
        ("diffusion_pytorch_model-00001-of-00002.safetensors", "transformer-shard"),
        ("diffusion_pytorch_model-00002-of-00002.safetensors", "transformer-shard"),
        ("steadydance.json", "config"),
        ("Wan2.1_VAE.pth", "vae"),
        ("models_t5_umt5-xxl-enc-bf16.pth", "text-encoder"),
        ("models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth", "image-encoder"),
        ("google/umt5-xxl/tokenizer.json", "tokenizer"),
    ];
    let mut table = format!(
        "[[model]]\nname = \"tiny\"\ntitle = \"Tiny\"\nsummary = \"s\"\nnetwork = \"steadydancer\"\nformat = \"bf16\"\n\
         repository = {repository:?}\nlicence = \"MIT\"\npreset = \"demo\"\n"
    );
    for (path, part) in names {
        table += &format!("[[model.files]]\npath = {path:?}\npart = {part:?}\n");
    }
    fs::create_dir(sandbox.work("tables")).unwrap();
    sandbox.write("tables/tiny.toml", table);
    let doctor = || sandbox.run(&["doctor", "--json", "--manifests", "tables"]).json();
    let tiny =
        |found: &Value| found["models"].as_array().unwrap().iter().find(|m| m["name"] == "tiny").unwrap().clone();
    let found = doctor();
    assert_eq!((&tiny(&found)["here"], &tiny(&found)["verdict"]), (&false.into(), &Value::Null));
    // The disk is measured, and left as it was.
    let read = &found["disk"]["read"];
    assert!(read["bytes_per_s"].as_f64().unwrap() > 0.0 && read["bytes"].as_u64().unwrap() <= 256 << 20, "{read}");
    assert!(!sandbox.work("../.cache").exists());
    let repository = sandbox.work("../.cache/huggingface/hub/models--me--tiny");
    let snapshot = repository.join("snapshots").join(commit);
    for (path, _) in names {
        let to = snapshot.join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(fixture("model").join(path), to).unwrap();
    }
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), commit).unwrap();
    let found = doctor();
    assert_eq!((&tiny(&found)["here"], &tiny(&found)["verdict"]["verdict"]), (&true.into(), &"fits".into()), "{found}");
    assert_eq!(found["hub"]["models"], serde_json::json!(["tiny"]));
    fs::write(snapshot.join("Wan2.1_VAE.pth"), "not one").unwrap();
    let found = doctor();
    assert!(tiny(&found)["verdict"]["problem"].as_str().unwrap().contains("Wan2.1_VAE.pth"), "{found}");
    let warnings = found["warnings"].to_string();
    assert!(warnings.contains("tiny is here and would not run") && found["problem"].is_null(), "{warnings}");
}
