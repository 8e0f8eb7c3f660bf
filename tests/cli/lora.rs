//! `--lora`: what it changes, what it says, and LoRAs that cannot be used.

use std::collections::BTreeMap;
use std::fs;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use crate::support::{Sandbox, fixture, tiny_run};

/// A LoRA for the tiny model.
const FITTING: [(&str, &[usize]); 5] = [
    ("diffusion_model.blocks.0.self_attn.v.lora_down.weight", &[2, 128]),
    ("diffusion_model.blocks.0.self_attn.v.lora_up.weight", &[128, 2]),
    ("diffusion_model.blocks.0.self_attn.v.alpha", &[]),
    ("diffusion_model.blocks.1.diff_m", &[1, 6, 128]),
    ("diffusion_model.blocks.7.diff_m", &[1, 6, 128]),
];

fn lora(sandbox: &Sandbox, name: &str, tensors: &[(&str, &[usize])]) -> String {
    let tensor = |shape: &[usize]| Tensor::full(0.25, shape, &Device::Cpu).unwrap().to_dtype(DType::BF16).unwrap();
    let tensors: BTreeMap<String, Tensor> = tensors.iter().map(|(n, s)| ((*n).to_owned(), tensor(s))).collect();
    weights::save_safetensors(&sandbox.work(name), &tensors, &BTreeMap::new()).unwrap();
    name.to_owned()
}

#[test]
fn a_lora_changes_the_clip_with_its_strength_and_is_recorded() {
    let sandbox = Sandbox::new();
    let file = lora(&sandbox, "style.safetensors", &FITTING);
    let mut count = 0;
    let mut run = |more: &[&str]| {
        count += 1;
        let out = sandbox.out(&format!("{count}.mp4"));
        let arguments: Vec<_> = tiny_run(&out).into_iter().chain(more.iter().map(|a| (*a).to_owned())).collect();
        let outcome = sandbox.run(&arguments);
        outcome.ok();
        (fs::read(out).unwrap(), outcome)
    };
    let strong = format!("{file}:3");
    let off = format!("{file}:0");
    let (plain, _) = run(&["--no-metadata"]);
    assert_eq!(run(&["--no-metadata", "--lora", &off]).0, plain);
    let (changed, outcome) = run(&["--no-metadata", "--lora", &strong]);
    assert_ne!(changed, plain);
    for text in ["style.safetensors: 1 key(s) name no weight", "blocks.7.diff_m", "strength 3: changes 2 tensors"] {
        assert!(outcome.stderr.contains(text), "{text:?} in {}", outcome.stderr);
    }
    // Where weights live does not matter, the strength does.
    let half = format!("{file}:1.5");
    assert_eq!(run(&["--no-metadata", "--lora", &strong, "--memory-mode", "stream"]).0, changed);
    assert_ne!(run(&["--no-metadata", "--lora", &half]).0, changed);

    let (recorded, outcome) = run(&["--json", "--lora", &half, "--lora", &off]);
    let text = String::from_utf8_lossy(&recorded).into_owned();
    assert!(text.contains(r#""loras":[{"name":"style.safetensors","strength":1.5},{"#), "in the file's metadata");
    let model: Value = serde_json::from_str(outcome.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(model["loras"][0]["strength"], 1.5);
    assert_eq!(model["loras"][0]["fit"]["unmatched"], json!(["diffusion_model.blocks.7.diff_m"]));

    let mut plan = vec!["plan".to_owned()];
    plan.extend(tiny_run(&sandbox.out("p.mp4")).into_iter().skip(1).chain(["--lora".to_owned(), strong]));
    assert!(sandbox.run(&plan).ok().contains("LoRA style.safetensors, strength 3: changes 2 tensors"));
}

#[test]
fn loras_that_cannot_be_used_are_one_line() {
    let sandbox = Sandbox::new();
    let wide: &[(&str, &[usize])] = &[("diffusion_model.blocks.0.self_attn.q.diff_b", &[5120])];
    let other: &[(&str, &[usize])] = &[("double_blocks.0.img_attn.qkv.diff", &[4])];
    let plain: &[(&str, &[usize])] = &[("blocks.0.self_attn.q.weight", &[128, 128])];
    let half: &[(&str, &[usize])] = &[("blocks.0.self_attn.q.lora_A.weight", &[2, 128])];
    sandbox.write("text.safetensors", "no tensors here");
    let cases: [(String, i32, &[&str]); 8] = [
        ("gone.safetensors".to_owned(), 4, &["gone.safetensors"]),
        ("text.safetensors".to_owned(), 4, &["text.safetensors"]),
        (lora(&sandbox, "wide.safetensors", wide), 4, &["wide.safetensors", "[5120]", "[128]"]),
        (lora(&sandbox, "other.safetensors", other), 4, &["other.safetensors", "double_blocks.0.img_attn.qkv.diff"]),
        (lora(&sandbox, "plain.safetensors", plain), 4, &["plain.safetensors", "no LoRA"]),
        (lora(&sandbox, "half.safetensors", half), 4, &["half.safetensors", "no other half"]),
        ("a.safetensors:1000".to_owned(), 2, &["--lora", "-100 to 100"]),
        (":1".to_owned(), 2, &["FILE:STRENGTH"]),
    ];
    for (value, code, mentions) in cases {
        let out = sandbox.out("clip.mp4");
        let arguments: Vec<_> = tiny_run(&out).into_iter().chain(["--lora".to_owned(), value]).collect();
        sandbox.run(&arguments).fails(code, mentions);
        assert!(!out.exists());
    }
    // A model that is only planned has shapes too.
    let known = ["plan", "--model", "steadydancer-14b", "--memory-budget", "200", "--lora"];
    assert!(sandbox.run(&[&known[..], &["wide.safetensors"]].concat()).ok().contains("changes 1 tensors"));
    lora(&sandbox, "tiny.safetensors", &FITTING);
    sandbox.run(&[&known[..], &["tiny.safetensors"]].concat()).fails(4, &["tiny.safetensors", "[5120, 5120]"]);
}

#[test]
fn inspect_tells_what_a_lora_is_and_whether_it_fits() {
    let sandbox = Sandbox::new();
    let file = lora(&sandbox, "style.safetensors", &FITTING);
    let text = sandbox.run(&["inspect", &file]).ok().to_owned();
    for part in ["LoRA: LightX2V", "1 low-rank pairs, 2 whole differences", "rank: 2; scale: 0.125 (1 pairs", "--model"]
    {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    let model = fixture("model");
    for model in [model.clone(), model.join("diffusion_pytorch_model.safetensors.index.json")] {
        let text = sandbox.run(&["inspect", &file, "--model", model.to_str().unwrap()]).ok().to_owned();
        assert!(text.contains("changes 2 of its tensors") && text.contains("blocks.7.diff_m"), "{text}");
    }
    let json = sandbox.run(&["inspect", &file, "--model", model.to_str().unwrap(), "--json"]).json();
    assert_eq!([&json["lora"]["dialect"], &json["fit"]["targets"]], [&json!("lightx2v"), &json!(2)]);
    assert_eq!(json["network"], Value::Null);
    sandbox.run(&["inspect", &file, "--model", "demo"]).fails(4, &[&file, "[256, 256]"]);
    sandbox.run(&["inspect", &file, "--model", "steadydancer-14b"]).fails(4, &[&file, "[5120, 5120]"]);
    sandbox.run(&["inspect", &file, "--model", "gone"]).fails(4, &["gone"]);
    // A relative of LoRA is told what it is, not that it is none.
    let key = "diffusion_model.blocks.0.self_attn.v.dora_scale";
    let dora: Vec<_> = FITTING.into_iter().chain([(key, &[128, 1][..])]).collect();
    let dora = lora(&sandbox, "dora.safetensors", &dora);
    sandbox.run(&["inspect", &dora, "--model", "demo"]).fails(4, &["dora.safetensors is a DoRA", key]);
    assert!(sandbox.run(&["inspect", &dora]).ok().contains("LoRA: cannot be used: dora.safetensors is a DoRA"));
    let json = sandbox.run(&["inspect", &dora, "--json"]).json();
    assert!(json["lora_refused"].as_str().unwrap().contains("DoRA") && json["lora"].is_null());
    let vae = model.join("Wan2.1_VAE.pth");
    sandbox.run(&["inspect", vae.to_str().unwrap(), "--model", "demo"]).fails(2, &["Wan2.1_VAE.pth is no LoRA"]);
}

#[test]
fn loras_have_layers_like_other_settings() {
    let sandbox = Sandbox::new();
    let show = |arguments: &[&str], variables: &[(&str, &str)]| {
        let all = sandbox.run_with(&[&["config", "show", "--json"], arguments].concat(), variables).json();
        all["lora"].clone()
    };
    assert_eq!(show(&[], &[])["value"], json!(["demo-4step:1"]), "the demo preset's own");
    assert_eq!(show(&["--preset", "official"], &[])["value"], Value::Null);
    // In the user's file a path starts beside that file; a word that is no file there is a name.
    let beside = sandbox.user_config().with_file_name("mine.pth");
    fs::write(&beside, "").unwrap();
    fs::write(sandbox.user_config(), "lora = [\"mine.pth:0.5\", \"demo-4step\"]\n").unwrap();
    assert_eq!(show(&[], &[])["value"], json!([format!("{}:0.5", beside.display()), "demo-4step:1"]));
    sandbox.write("steadydance.toml", "lora = \"a.pth\"\n");
    assert_eq!(show(&[], &[])["value"], json!(["a.pth:1"]));
    let env = [("STEADYDANCE_LORA", "b.pth:2")];
    assert_eq!(show(&[], &env), json!({"value": ["b.pth:2"], "origin": "STEADYDANCE_LORA"}));
    assert_eq!(show(&["--lora", "c,d.pth", "--lora", "e.pth:-1"], &env)["value"], json!(["c,d.pth:1", "e.pth:-1"]));
    sandbox.write("steadydance.toml", "lora = [\"a.pth:900\"]\n");
    sandbox.run(&["config", "show"]).fails(2, &["steadydance.toml", "`lora`", "-100 to 100"]);
}
