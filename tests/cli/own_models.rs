//! Models of one's own: tables in a folder, a composite of several repositories, pulled by its name from a hub on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use testkit::hub::{FakeHub, Fault, etag};

use crate::support::{Outcome, Sandbox, fixture, tiny_run, tiny_run_of};

const INDEX: &str = "diffusion_pytorch_model.safetensors.index.json";
const VAE: &str = "Wan2.1_VAE.pth";
const TEXT: &str = "models_t5_umt5-xxl-enc-bf16.pth";
const IMAGE: &str = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth";
const TOKENIZER: &str = "google/umt5-xxl/tokenizer.json";

fn shard(number: usize) -> String {
    format!("diffusion_pytorch_model-0000{number}-of-00002.safetensors")
}

fn read(name: &str) -> Vec<u8> {
    fs::read(fixture("model").join(name)).unwrap()
}

/// One model of a table, with the sizes and hashes of its files.
fn model(name: &str, network: &str, repository: &str, with: &[&str], files: &[(&str, &str)]) -> String {
    let mut text = format!(
        "[[model]]\nname = {name:?}\ntitle = \"Tiny\"\nsummary = \"for tests\"\nnetwork = {network:?}\nformat = \"bf16\"\n\
         repository = {repository:?}\nlicence = \"MIT\"\nwith = {with:?}\n"
    );
    for (path, part) in files {
        let bytes = read(path);
        text += &format!("[[model.files]]\npath = {path:?}\npart = {part:?}\nsize_bytes = {}\n", bytes.len());
        // The hub tells git's hash of small files.
        if bytes.len() >= 1000 {
            text += &format!("sha256 = {:?}\n", etag(&bytes));
        }
    }
    text
}

/// The tiny model as a composite of four repositories, in two tables.
fn tables() -> [(&'static str, String); 2] {
    let own = [
        (INDEX, "transformer"),
        (&shard(1), "transformer-shard"),
        (&shard(2), "transformer-shard"),
        ("steadydance.json", "config"),
    ];
    let tiny =
        model("tiny", "steadydancer", "me/tiny", &["tiny-vae", "tiny-text", "tiny-image", "tiny-tokenizer"], &own);
    let parts = [
        model("tiny-vae", "wan-vae", "me/vae", &[], &[(VAE, "vae")]),
        model("tiny-text", "umt5", "me/encoders", &[], &[(TEXT, "text-encoder")]),
        model("tiny-image", "clip-vision", "me/encoders", &[], &[(IMAGE, "image-encoder")]),
        model("tiny-tokenizer", "tokenizer", "me/tokenizer", &[], &[(TOKENIZER, "tokenizer")]),
    ];
    [("tiny.toml", tiny), ("parts.toml", parts.concat())]
}

struct Place {
    sandbox: Sandbox,
    hub: FakeHub,
}

impl Place {
    fn new() -> Self {
        let (sandbox, hub) = (Sandbox::new(), FakeHub::new());
        fs::create_dir_all(sandbox.work("tables")).unwrap();
        for (name, text) in tables() {
            sandbox.write(&format!("tables/{name}"), text);
        }
        for name in [INDEX, &shard(1), &shard(2), "steadydance.json"] {
            hub.put("me/tiny", name, read(name));
        }
        hub.put("me/vae", VAE, read(VAE)).put("me/encoders", TEXT, read(TEXT)).put("me/encoders", IMAGE, read(IMAGE));
        hub.put("me/tokenizer", TOKENIZER, read(TOKENIZER));
        Self { sandbox, hub }
    }

    fn run<A: AsRef<std::ffi::OsStr>>(&self, line: &[A]) -> Outcome {
        let endpoint = self.hub.endpoint();
        let variables =
            [("HF_ENDPOINT", endpoint.as_str()), ("NO_PROXY", "127.0.0.1"), ("STEADYDANCE_MANIFESTS", "tables")];
        self.sandbox.run_with(line, &variables)
    }

    fn pull(&self, more: &[&str]) -> Outcome {
        self.run(&[&["models", "pull", "tiny"], more].concat())
    }

    fn blob(&self, repository: &str, file: &str) -> PathBuf {
        let folder = format!("../.cache/huggingface/hub/models--{}/blobs", repository.replace('/', "--"));
        self.sandbox.work(&folder).join(etag(&read(file)))
    }

    /// A run of the model by its name.
    fn clip(&self, name: &str) -> (Outcome, PathBuf) {
        let out = self.sandbox.out(name);
        let picture = fixture("portrait_9/ref.png");
        (self.run(&tiny_run_of(Path::new("tiny"), &picture, &fixture("portrait_9/pose"), &out)), out)
    }
}

fn events(outcome: &Outcome) -> Vec<Value> {
    outcome.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn a_composite_is_pulled_by_its_name_and_runs() {
    let place = Place::new();
    // The second half of each large file comes late, so that those which come at the same time are seen to.
    place.hub.delay(std::time::Duration::from_millis(300));
    let pulled = place.pull(&["--json"]);
    pulled.ok();
    let names: Vec<Value> = events(&pulled).iter().map(|e| e["event"].clone()).collect();
    let large = |e: &&Value| e["event"] == "file_finished" && e["size_bytes"].as_u64().unwrap() >= 1000;
    let events = events(&pulled);
    let first = events.iter().position(|e| large(&e)).unwrap();
    let begun = events[..first].iter().filter(|e| e["event"] == "file_started").count();
    assert!(begun >= 3, "{names:?}");
    let repositories = events.iter().filter(|e| e["event"] == "file_finished").map(|e| e["repository"].to_string());
    assert_eq!(repositories.collect::<std::collections::BTreeSet<_>>().len(), 4);

    let parts = place.run(&["models", "path", "tiny", "--parts"]);
    assert_eq!(parts.ok().lines().count(), 8);
    for part in ["transformer\t", "config\t", "vae\t", "text-encoder\t", "image-encoder\t", "tokenizer\t"] {
        assert!(parts.stdout.contains(part), "{part}");
    }
    place.run(&["models", "verify", "tiny"]).ok();
    let listed = place.run(&["models", "list", "tiny", "--json"]).json();
    assert!(listed.as_array().unwrap().iter().all(|m| m["state"] == "cached"), "{listed}");

    let (run, clip) = place.clip("a.mp4");
    run.ok();
    let same = place.sandbox.out("b.mp4");
    place.sandbox.run(&tiny_run(&same)).ok();
    assert_eq!(fs::read(clip).unwrap(), fs::read(same).unwrap());
    // Its own sizes, not those of a published model.
    let mut plan = tiny_run_of(
        Path::new("tiny"),
        &fixture("portrait_9/ref.png"),
        &fixture("portrait_9/pose"),
        &place.sandbox.out("c.mp4"),
    );
    plan[0] = "plan".to_owned();
    plan.push("--json".to_owned());
    let peak = place.run(&plan).json()["stages"]["peaks"]["ram_bytes"].as_u64().unwrap();
    assert!(peak < 1 << 30, "{peak}");

    // A part that is needed stays.
    place.run(&["models", "rm", "tiny-vae"]).fails(4, &["needed by tiny"]);
    place.run(&["models", "rm", "tiny"]).ok();
    assert!(!place.blob("me/vae", VAE).exists());
}

#[test]
fn a_part_that_is_missing_is_named() {
    let place = Place::new();
    place.clip("a.mp4").0.fails(4, &["tiny (me/tiny)", "`steadydance models pull tiny`"]);
    // Nothing is known of its shapes either.
    place.run(&["plan", "--model", "tiny", "--ref", "a.png", "--pose", "b"]).fails(4, &["models pull tiny"]);
    place.pull(&[]).ok();
    fs::remove_file(place.blob("me/encoders", IMAGE)).unwrap();
    place.clip("a.mp4").0.fails(4, &["`steadydance models pull tiny`"]);
    let listed = place.run(&["models", "list", "tiny", "--json"]).json();
    let tiny = listed.as_array().unwrap().iter().find(|m| m["name"] == "tiny").unwrap();
    assert_eq!((&tiny["state"], &tiny["missing"][0]["path"]), (&"partial".into(), &IMAGE.into()));
    let before = place.hub.downloads();
    place.pull(&[]).ok();
    assert_eq!(place.hub.downloads(), before + 1);
    place.clip("a.mp4").0.ok();

    let table = place.sandbox.work("tables/parts.toml");
    let text = fs::read_to_string(&table).unwrap().replace(VAE, "none.pth");
    fs::write(&table, text).unwrap();
    place.pull(&[]).fails(8, &["none.pth", "me/vae"]);
    fs::remove_file(&table).unwrap();
    place.pull(&[]).fails(2, &["\"tiny\" is made with \"tiny-vae\""]);
}

#[test]
fn bytes_that_are_not_those_of_the_table_are_refused() {
    let place = Place::new();
    let (table, right) = (place.sandbox.work("tables/parts.toml"), etag(&read(VAE)));
    let text = fs::read_to_string(&table).unwrap();
    fs::write(&table, text.replace(&right, &"0".repeat(64))).unwrap();
    place.pull(&[]).fails(4, &[VAE, "me/vae", "known"]);
    assert_eq!(place.hub.downloads(), 0, "nothing is downloaded of a model that has changed");
    fs::write(&table, text.replace(&format!("size_bytes = {}", read(VAE).len()), "size_bytes = 7")).unwrap();
    place.pull(&[]).fails(4, &[VAE, "7 B"]);
    fs::write(&table, text).unwrap();
    // On the way, twice, into whichever file comes first.
    place.hub.faults([Fault::Corrupt, Fault::Corrupt, Fault::Corrupt, Fault::Corrupt, Fault::Corrupt]);
    place.pull(&["--jobs", "1"]).fails(4, &["damaged", "was removed"]);
    place.hub.faults([]);
}

#[test]
fn a_pull_that_broke_off_goes_on_with_what_is_there() {
    let place = Place::new();
    let bytes = read(&shard(1));
    let blob = place.blob("me/tiny", &shard(1));
    fs::create_dir_all(blob.parent().unwrap()).unwrap();
    fs::write(blob.with_file_name(format!("{}.incomplete", etag(&bytes))), &bytes[..bytes.len() / 2]).unwrap();
    let listed = place.run(&["models", "list", "tiny", "--json"]).json();
    let state = |name: &str| listed.as_array().unwrap().iter().find(|m| m["name"] == name).unwrap()["state"].clone();
    assert_eq!((state("tiny"), state("tiny-vae")), ("partial".into(), "absent".into()));
    // And the connection of another file is cut.
    place.hub.faults([Fault::CutAfter(500)]);
    place.pull(&[]).ok();
    let resumed: Vec<String> = {
        let log = place.hub.log();
        log.iter().filter(|r| r.to_storage).filter_map(|r| r.headers.get("range").cloned()).collect()
    };
    assert_eq!(resumed.len(), 2, "{resumed:?}");
    assert!(resumed.contains(&format!("bytes={}-", bytes.len() / 2)), "{resumed:?}");
    assert_eq!(fs::read(&blob).unwrap(), bytes);
    place.clip("a.mp4").0.ok();
}

#[test]
fn tables_come_from_a_flag_a_variable_or_the_users_folder() {
    let place = Place::new();
    let sandbox = &place.sandbox;
    let has = |outcome: &Outcome| outcome.ok().contains("tiny-vae");
    assert!(!has(&sandbox.run(&["models", "list", "tiny-vae"])));
    assert!(has(&sandbox.run(&["models", "list", "tiny-vae", "--manifests", "tables"])));
    let both = sandbox.run_with(&["models", "list", "tiny-vae"], &[("STEADYDANCE_MANIFESTS", "tables")]);
    assert!(has(&both) && both.stderr.is_empty(), "{}", both.stderr);
    let shown = sandbox.run_with(&["config", "show"], &[("STEADYDANCE_MANIFESTS", "tables")]);
    shown.ok();
    assert!(!shown.stderr.contains("is no setting"), "{}", shown.stderr);
    let folder = sandbox.user_config().with_file_name("manifests");
    fs::create_dir_all(&folder).unwrap();
    for (name, text) in tables() {
        fs::write(folder.join(name), text).unwrap();
    }
    assert!(has(&sandbox.run(&["models", "list", "tiny-vae"])));
    // The flag's folder comes instead of the user's.
    fs::create_dir_all(sandbox.work("empty")).unwrap();
    assert!(!has(&sandbox.run(&["models", "list", "tiny-vae", "--manifests", "empty"])));
    sandbox.run(&["models", "list", "--manifests", "none"]).fails(2, &["none", "folder of .toml"]);
    fs::write(folder.join("x.toml"), "[[model]]\nname = \"x\"\n").unwrap();
    sandbox.run(&["models", "list"]).fails(2, &["x.toml", "line 1", "missing field"]);
    sandbox.run(&["completions", "bash"]).ok();
}
