//! Layers of settings: flag > environment > ./steadydance.toml > the user's file > preset > default.

use std::fs;

use crate::support::Sandbox;

fn show(sandbox: &Sandbox, arguments: &[&str], variables: &[(&str, &str)]) -> serde_json::Value {
    sandbox.run_with(&[&["config", "show", "--json"], arguments].concat(), variables).json()
}

#[test]
fn each_layer_covers_the_ones_below() {
    let sandbox = Sandbox::new();
    let steps = |arguments: &[&str], variables: &[(&str, &str)]| {
        let row = show(&sandbox, arguments, variables)["steps"].clone();
        (row["value"].as_u64().unwrap(), row["origin"].as_str().unwrap().to_owned())
    };
    let env = [("STEADYDANCE_STEPS", "13")];
    assert_eq!(steps(&[], &[]), (4, "preset demo".to_owned()));
    assert_eq!(steps(&["--model", "elsewhere"], &[]), (40, "preset official".to_owned()));
    assert_eq!(steps(&["--preset", "distill-4step"], &[]), (4, "preset distill-4step".to_owned()));
    fs::write(sandbox.user_config(), "steps = 11\nseed = 5\n").unwrap();
    let (value, origin) = steps(&["--preset", "distill-4step"], &[]);
    assert!(value == 11 && origin.ends_with("config.toml"), "{origin}");
    sandbox.write("steadydance.toml", "steps = 12\n");
    assert_eq!(steps(&[], &[]), (12, "steadydance.toml".to_owned()));
    assert_eq!(steps(&[], &env), (13, "STEADYDANCE_STEPS".to_owned()));
    assert_eq!(steps(&["--steps", "14"], &env), (14, "flag".to_owned()));
    // Other keys keep their own origin.
    let all = show(&sandbox, &["--steps", "14"], &env);
    assert_eq!(all["seed"]["value"], 5);
    assert_eq!(all["crf"], serde_json::json!({"value": 18, "origin": "default"}));
    assert_eq!(all["size"]["origin"], "not set");
}

#[test]
fn a_preset_may_come_from_any_layer() {
    let sandbox = Sandbox::new();
    sandbox.write("steadydance.toml", "preset = \"distill-4step\"");
    assert_eq!(show(&sandbox, &[], &[])["sampler"]["value"], "euler");
    assert_eq!(show(&sandbox, &[], &[("STEADYDANCE_PRESET", "official")])["sampler"]["value"], "unipc");
    sandbox.run_with(&["config", "show"], &[("STEADYDANCE_PRESET", "x")]).fails(2, &["\"x\"", "official"]);
}

#[test]
fn every_key_of_a_file_is_understood() {
    let sandbox = Sandbox::new();
    let file = "model = 'demo'\nsize = '64x48'\nsigmas = [1, 0.5, 0]\npose-guidance-interval = [0.1, 0.4]\n\
                metadata = false\nguidance-scale = 5\nmemory-budget = 7.5\ndtype = 'f16'\ntiming = 'one-to-one'\n\
                negative-prompt = 'täglich 机器人'\nfps = 24\nseed = 9007199254740993\n";
    sandbox.write("steadydance.toml", file);
    let all = show(&sandbox, &[], &[]);
    for (key, value) in [
        ("size", serde_json::json!("64x48")),
        ("sigmas", serde_json::json!([1.0, 0.5, 0.0])),
        ("metadata", serde_json::json!(false)),
        ("guidance-scale", serde_json::json!(5.0)),
        ("negative-prompt", serde_json::json!("täglich 机器人")),
        ("seed", serde_json::json!(9_007_199_254_740_993_u64)),
    ] {
        assert_eq!(all[key]["value"], value, "{key}");
    }
    assert_eq!(show(&sandbox, &["--metadata", "true"], &[])["metadata"]["value"], true);
    assert_eq!(show(&sandbox, &["--no-metadata"], &[("STEADYDANCE_METADATA", "true")])["metadata"]["value"], false);
    // Text that looks like a number or a flag stays text.
    let prompts = [("STEADYDANCE_PROMPT", "007"), ("STEADYDANCE_NEGATIVE_PROMPT", "--steps")];
    let all = show(&sandbox, &[], &prompts);
    assert_eq!((&all["prompt"]["value"], &all["negative-prompt"]["value"]), (&"007".into(), &"--steps".into()));
}

#[test]
fn mistakes_name_the_key_and_the_file() {
    let sandbox = Sandbox::new();
    let cases: [(&str, &[&str]); 9] = [
        ("stepz = 5", &["unknown key `stepz`", "the keys are"]),
        ("num_frames = 5", &["unknown key `num_frames`", "`num-frames`"]),
        ("steps = 'many'", &["`steps`", "many"]),
        ("steps = 4.5", &["`steps`", "4.5"]),
        ("sampler = 'nonsense'", &["`sampler`", "unipc"]),
        ("metadata = 3", &["`metadata`", "3"]),
        ("size = '7'", &["`size`", "WIDTHxHEIGHT"]),
        ("[run]\nsteps = 5", &["`run`"]),
        ("steps = \nseed = 3", &["line 1"]),
    ];
    for (text, mentions) in cases {
        sandbox.write("steadydance.toml", text);
        let mentions: Vec<&str> = mentions.iter().copied().chain(["steadydance.toml"]).collect();
        sandbox.run(&["config", "show"]).fails(2, &mentions);
        sandbox.run(&["run", "--ref", "a", "--drive", "b"]).fails(2, &mentions);
    }
    sandbox.write("steadydance.toml", b"prompt = \"\xff\"");
    sandbox.run(&["config", "show"]).fails(2, &["steadydance.toml"]);
    fs::remove_file(sandbox.work("steadydance.toml")).unwrap();
    fs::create_dir(sandbox.work("steadydance.toml")).unwrap();
    sandbox.run(&["config", "show"]).fails(2, &["steadydance.toml"]);
    fs::remove_dir(sandbox.work("steadydance.toml")).unwrap();
    fs::write(sandbox.user_config(), "crf = 'low'").unwrap();
    sandbox.run(&["config", "show"]).fails(2, &["config.toml", "`crf`"]);
}

#[test]
fn variables_that_are_no_settings_are_told_and_ignored() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run_with(&["config", "show"], &[("STEADYDANCE_STEPZ", "5"), ("STEADYDANCE_GOLDEN_DIR", "x")]);
    outcome.ok();
    assert!(outcome.stderr.contains("STEADYDANCE_STEPZ") && !outcome.stderr.contains("GOLDEN"), "{}", outcome.stderr);
    let quiet = sandbox.run_with(&["config", "show", "-q"], &[("STEADYDANCE_STEPZ", "5")]);
    assert_eq!((quiet.code, quiet.stderr.as_str()), (Some(0), ""));
    sandbox.run_with(&["config", "show"], &[("STEADYDANCE_STEPS", "x")]).fails(2, &["STEADYDANCE_STEPS", "\"x\""]);
}

#[test]
fn paths_in_the_users_file_are_beside_it() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.user_config(), "model = 'models/sd'\nvae = '/abs/vae.pth'\n").unwrap();
    let all = show(&sandbox, &[], &[]);
    let model = sandbox.user_config().with_file_name("models").join("sd");
    assert_eq!(all["model"]["value"], model.to_str().unwrap());
    assert_eq!(all["vae"]["value"], "/abs/vae.pth");
    fs::write(sandbox.user_config(), "model = 'steadydancer-14b'").unwrap();
    assert_eq!(show(&sandbox, &[], &[])["model"]["value"], "steadydancer-14b");
}
