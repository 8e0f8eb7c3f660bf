//! Who may import whom. Arrows only point down, siblings do not know each other; `testkit` and `emulated-gpu` are for tests only.

use std::collections::BTreeMap;
use std::path::Path;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// The house, floor by floor: a package may use packages of lower floors only.
const FLOORS: &[(u8, &[&str])] = &[
    (6, &["steadydance"]),
    (5, &["bench", "server"]),
    (4, &["pipeline"]),
    (3, &["dit", "umt5", "clip", "vae", "pose", "audio"]),
    (2, &["nn", "offload"]),
    (1, &["weights"]),
    (0, &["kernels", "models", "scheduler", "media"]),
];

/// What lies below and is still none of a package's business. `weights` turns bytes into tensors and knows `kernels` for the forms
/// that quantised matrices are stored in, and for their decoding.
const NOT_ITS_BUSINESS: &[(&str, &[&str])] = &[
    ("weights", &["models", "scheduler", "media"]),
    ("nn", &["models", "scheduler", "media"]),
    ("offload", &["models", "scheduler", "media"]),
    ("pose", &["offload", "models", "scheduler"]),
    ("dit", &["offload", "models", "scheduler", "media"]),
    ("umt5", &["offload", "models", "scheduler", "media"]),
    ("clip", &["offload", "models", "scheduler", "media"]),
    ("vae", &["offload", "models", "scheduler", "media"]),
];

/// Foreign crates that live in one of our packages only.
const KEEPERS: &[(&str, &[&str])] = &[
    ("ffmpeg-next", &["media"]),
    ("memmap2", &["weights"]),
    ("libloading", &["kernels"]),
    ("zip", &["weights"]),
    ("prost", &["weights"]),
    ("ureq", &["weights"]),
    ("embedded-graphics", &["pipeline"]),
    ("tokenizers", &["umt5"]),
    ("clap", &["steadydance"]),
    ("anyhow", &["steadydance"]),
    ("indicatif", &["steadydance"]),
];

/// Packages that only tests use.
const TESTS_ONLY: &[&str] = &["testkit", "emulated-gpu"];

/// Packages that must not know tensors.
const NO_TENSORS: &[&str] = &["media", "models"];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .unwrap()
}

/// The short name that the design uses.
fn short(name: &str) -> &str {
    name.strip_prefix("steadydance-").unwrap_or(name)
}

fn floor(name: &str) -> Option<u8> {
    FLOORS.iter().find(|(_, names)| names.contains(&name)).map(|(floor, _)| *floor)
}

fn keeps(table: &[(&str, &[&str])], key: &str, value: &str) -> Option<bool> {
    table.iter().find(|(k, _)| *k == key).map(|(_, values)| values.contains(&value))
}

/// Everything wrong with one package, in words.
fn complaints(package: &str, dependencies: &[(&str, DependencyKind, bool)]) -> Vec<String> {
    let Some(own_floor) = floor(package) else {
        return match package {
            tests if TESTS_ONLY.contains(&tests) => Vec::new(),
            _ => vec![format!("{package} stands on no floor; write it into the design and into this table")],
        };
    };
    let mut wrong = Vec::new();
    for (dependency, kind, ours) in dependencies {
        let tests_only = *kind == DependencyKind::Development;
        if !ours {
            if keeps(KEEPERS, dependency, package) == Some(false) && !tests_only {
                wrong.push(format!("{package} uses {dependency}, which is kept in another package"));
            }
            if *dependency == "candle-core" && NO_TENSORS.contains(&package) && !tests_only {
                wrong.push(format!("{package} uses tensors"));
            }
            continue;
        }
        match floor(dependency) {
            None if TESTS_ONLY.contains(dependency) && tests_only => {}
            None if TESTS_ONLY.contains(dependency) => {
                wrong.push(format!("{package} uses {dependency} outside of its tests"));
            }
            None => wrong.push(format!("{package} uses {dependency}, which stands on no floor")),
            Some(below) if below >= own_floor => {
                wrong.push(format!("{package} (floor {own_floor}) uses {dependency} (floor {below})"));
            }
            Some(_) if !tests_only && keeps(NOT_ITS_BUSINESS, package, dependency) == Some(true) => {
                wrong.push(format!("{package} uses {dependency}, which is none of its business"));
            }
            Some(_) => {}
        }
    }
    wrong
}

fn ours(metadata: &Metadata) -> BTreeMap<&str, &Package> {
    metadata.workspace_packages().into_iter().map(|p| (p.name.as_str(), p)).collect()
}

#[test]
fn arrows_point_down() {
    let metadata = metadata();
    let packages = ours(&metadata);
    assert!(packages.len() >= 10 && packages.contains_key("steadydance"), "{:?}", packages.keys());
    let mut wrong = Vec::new();
    for (name, package) in &packages {
        let dependencies: Vec<_> = package
            .dependencies
            .iter()
            .map(|d| (short(&d.name), d.kind, packages.contains_key(d.name.as_str())))
            .collect();
        wrong.extend(complaints(short(name), &dependencies));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn our_packages_are_found_by_path_and_stay_here() {
    let metadata = metadata();
    for (name, package) in ours(&metadata) {
        assert_eq!(package.publish.as_deref(), Some(&[][..]), "{name} may not be published by accident");
        for dependency in &package.dependencies {
            let ours = dependency.name.starts_with("steadydance");
            assert_eq!(ours, dependency.path.is_some(), "{name} → {}", dependency.name);
        }
    }
}

#[test]
fn the_rule_finds_each_kind_of_wrong_edge() {
    use DependencyKind::{Development, Normal};
    let check = |package, dependency, kind, ours| complaints(package, &[(dependency, kind, ours)]).len();
    for (package, dependency) in [
        ("dit", "vae"),
        ("scheduler", "media"),
        ("weights", "nn"),
        ("media", "weights"),
        ("nn", "pipeline"),
        ("weights", "models"),
        ("pose", "offload"),
        ("vae", "testkit"),
        ("offload", "emulated-gpu"),
        ("kernels", "kernels"),
    ] {
        assert_eq!(check(package, dependency, Normal, true), 1, "{package} → {dependency}");
    }
    assert_eq!(check("vae", "vae", Development, true), 1);
    assert_eq!(check("newcomer", "weights", Normal, true), 1);
    assert_eq!(check("nn", "newcomer", Normal, true), 1);
    assert_eq!(check("pipeline", "ffmpeg-next", Normal, false), 1);
    assert_eq!(check("media", "candle-core", Normal, false), 1);
    for (package, dependency, kind) in [
        ("vae", "testkit", Development),
        ("kernels", "emulated-gpu", Development),
        ("dit", "nn", Normal),
        ("steadydance", "scheduler", Normal),
        ("nn", "weights", Normal),
        ("weights", "kernels", Normal),
    ] {
        assert_eq!(check(package, dependency, kind, true), 0, "{package} → {dependency}");
    }
}
