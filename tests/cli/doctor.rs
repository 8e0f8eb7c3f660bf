//! `doctor`: what it tells of this machine, and its exit codes.

use std::fs;

use serde_json::Value;

use crate::support::{Sandbox, fixture};

#[test]
fn it_tells_the_machine_in_lines_and_as_json() {
    let sandbox = Sandbox::new();
    let found = sandbox.run(&["doctor", "--json", "--no-disk-speed"]).json();
    assert_eq!((&found["problem"], &found["disk"]["read"]), (&Value::Null, &Value::Null));
    assert_eq!(found["version"], env!("CARGO_PKG_VERSION"));
    assert!(found["cpu"]["threads"].as_u64().unwrap() >= 1);
    let level = found["cpu"]["instruction_set"].as_str().unwrap();
    assert!(["AVX-512", "AVX2", "portable"].contains(&level), "{level}");
    let bytes = |key: &str| found["memory"][key].as_u64().unwrap();
    assert!(bytes("available_bytes") > 0 && bytes("available_bytes") <= bytes("total_bytes"));
    let models = found["models"].as_array().unwrap();
    assert_eq!(
        (&models[0]["name"], &models[0]["embedded"], &models[0]["verdict"]["verdict"]),
        (&"demo".into(), &true.into(), &"fits".into())
    );
    assert!(models.len() >= 12 && models[1..].iter().all(|m| m["here"] == false && !m["verdict"].is_null()));
    let outputs = found["codecs"]["outputs"].as_array().unwrap();
    assert_eq!(outputs.iter().map(|o| o["kind"].as_str().unwrap()).collect::<Vec<_>>(), ["mp4", "webm", "gif", "png"]);

    let told = sandbox.run(&["doctor", "--no-disk-speed"]);
    for text in [
        "CPU ",
        level,
        "GPU ",
        "memory",
        " available of ",
        "avcodec ",
        ".mp4: ",
        "token: no",
        "demo ",
        "steadydancer-14b-fp8",
    ] {
        assert!(told.ok().contains(text), "{text:?} in\n{}", told.stdout);
    }
    // What to do about what is not well.
    assert!(told.stdout.contains("! no large model is here; `steadydance models list`"), "{}", told.stdout);
    assert!(told.stdout.contains("`steadydance models pull dwpose`"), "{}", told.stdout);
}

#[test]
fn the_disk_is_measured_and_left_as_it_was() {
    let sandbox = Sandbox::new();
    let cache = sandbox.work("cache");
    fs::create_dir(&cache).unwrap();
    let cache = cache.to_str().unwrap().to_owned();
    let found = sandbox.run_with(&["doctor", "--json"], &[("HF_HUB_CACHE", &cache)]).json();
    let read = &found["disk"]["read"];
    assert!(read["bytes_per_s"].as_f64().unwrap() > 0.0 && read["bytes"].as_u64().unwrap() <= 256 << 20, "{read}");
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 0);
}

#[test]
fn the_hubs_settings_are_told_and_the_token_is_not() {
    let sandbox = Sandbox::new();
    let variables = [("HF_TOKEN", "hf_verysecret"), ("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", "http://mirror.invalid")];
    for arguments in [&["doctor", "--no-disk-speed"][..], &["doctor", "--no-disk-speed", "--json"]] {
        let told = sandbox.run_with(arguments, &variables);
        assert!(
            told.ok().contains("http://mirror.invalid") && told.stdout.contains("HF_HUB_OFFLINE is set"),
            "{}",
            told.stdout
        );
        assert!(!told.stdout.contains("verysecret") && !told.stderr.contains("verysecret"));
    }
    let hub = sandbox.run_with(&["doctor", "--no-disk-speed", "--json"], &variables).json()["hub"].clone();
    assert_eq!((&hub["has_token"], &hub["offline"], &hub["cache_bytes"]), (&true.into(), &true.into(), &0.into()));
}

#[cfg(unix)]
#[test]
fn a_demo_that_would_not_run_is_code_1() {
    let sandbox = Sandbox::new();
    let gone = sandbox.work("gone");
    let variables = [("TMPDIR", gone.to_str().unwrap())];
    let failed = sandbox.run_with(&["doctor", "--no-disk-speed"], &variables);
    failed.fails_with_output(1, &["the demo would not run", "TMPDIR"]);
    assert!(failed.stdout.contains("! the demo would not run"), "{}", failed.stdout);
    let failed = sandbox.run_with(&["doctor", "--no-disk-speed", "--json"], &variables);
    let found: Value = serde_json::from_str(&failed.stdout).unwrap();
    assert!(found["problem"].as_str().unwrap().contains("TMPDIR") && failed.code == Some(1));
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
    let tiny = || {
        let line = ["doctor", "--no-disk-speed", "--json", "--manifests", "tables"];
        let found = sandbox.run(&line).json();
        let models = found["models"].as_array().unwrap().clone();
        models.into_iter().find(|m| m["name"] == "tiny").unwrap()
    };
    assert_eq!((&tiny()["here"], &tiny()["verdict"]), (&false.into(), &Value::Null));
    let repository = sandbox.work("../.cache/huggingface/hub/models--me--tiny");
    let snapshot = repository.join("snapshots").join(commit);
    for (path, _) in names {
        let to = snapshot.join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(fixture("model").join(path), to).unwrap();
    }
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), commit).unwrap();
    let found = tiny();
    assert_eq!((&found["here"], &found["verdict"]["verdict"]), (&true.into(), &"fits".into()), "{found}");
    fs::write(snapshot.join("Wan2.1_VAE.pth"), "not one").unwrap();
    let found = tiny();
    assert!(found["verdict"]["problem"].as_str().unwrap().contains("Wan2.1_VAE.pth"), "{found}");
    assert!(
        sandbox
            .run(&["doctor", "--no-disk-speed", "--manifests", "tables"])
            .ok()
            .contains("! tiny is here and would not run")
    );
}
