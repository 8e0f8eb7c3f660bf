//! Every command of the README runs: those of the program through the built binary, in a copy of what they need; the
//! scripts are run by CI (`scripts/test.sh`, which runs `scripts/demo.sh`).

use std::path::Path;
use std::process::Command;

/// Shell lines of all fenced `sh` blocks, continuations joined.
fn commands(text: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut inside = false;
    let mut open = String::new();
    for line in text.lines() {
        if let Some(fence) = line.strip_prefix("```") {
            inside = fence == "sh";
            continue;
        }
        let line = line.trim();
        if !inside || line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(part) => open.push_str(part),
            None => commands.push(std::mem::take(&mut open) + line.split(" #").next().unwrap_or(line).trim()),
        }
    }
    commands
}

#[test]
fn every_command_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let commands = commands(&std::fs::read_to_string(root.join("README.md")).unwrap());
    let place = tempfile::tempdir().unwrap();
    for folder in ["examples/media", "models/demo"] {
        let copy = place.path().join(folder);
        std::fs::create_dir_all(&copy).unwrap();
        let entries = std::fs::read_dir(root.join(folder)).unwrap().map(|f| f.unwrap());
        for file in entries.filter(|f| f.path().is_file()) {
            std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
        }
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_steadydance"));
    let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let test_script = std::fs::read_to_string(root.join("scripts/test.sh")).unwrap();
    let mut run = 0;
    for command in &commands {
        match command.split(' ').next().unwrap() {
            "steadydance" => {
                let done = Command::new("bash")
                    .args(["-o", "pipefail", "-c", command])
                    .current_dir(place.path())
                    .env("PATH", &path)
                    .env("XDG_CONFIG_HOME", place.path())
                    .output()
                    .unwrap();
                let stderr = String::from_utf8_lossy(&done.stderr);
                assert!(done.status.success(), "{command}\n{stderr}");
                run += 1;
            }
            "scripts/test.sh" => {}
            "scripts/demo.sh" => assert!(test_script.contains("scripts/demo.sh"), "CI must run {command}"),
            "cargo" => assert!(
                command.starts_with("cargo test") || command.starts_with("cargo install --locked --path ."),
                "who runs {command}?"
            ),
            other => panic!("{command}: nobody knows how to run {other}"),
        }
    }
    assert!(run >= 3, "only {run} commands of the program in {commands:?}");
}
