//! Help, wrong arguments, and who writes where.

use crate::support::{Sandbox, png};

#[test]
fn every_command_has_help_on_stdout() {
    let sandbox = Sandbox::new();
    let commands: [(&str, &[&str]); 11] = [
        ("", &["run", "plan", "inspect", "models", "config", "completions", "Exit codes", "STEADYDANCE_"]),
        (
            "run",
            &["--ref", "--drive", "--pose", "--neg-pose", "--keypoints", "--prompt", "--negative-prompt", "--model"],
        ),
        (
            "run",
            &[
                "--preset",
                "--size",
                "--size-rule",
                "--num-frames",
                "--fps",
                "--timing",
                "--steps",
                "--sampler",
                "--sigmas",
            ],
        ),
        (
            "run",
            &["--shift", "--guidance-scale", "--pose-guidance-scale", "--pose-guidance-interval", "--seed", "--device"],
        ),
        (
            "run",
            &[
                "--dtype",
                "--lora",
                "--audio",
                "--crf",
                "--no-metadata",
                "--person",
                "--memory-mode",
                "--ram-budget",
                "--vram-budget",
                "--vae",
                "--text-encoder",
            ],
        ),
        (
            "run",
            &[
                "--image-encoder",
                "--tokenizer",
                "--snapshot-interval",
                "--dry-run",
                "--json",
                "--output",
                "--force",
                "--quiet",
                "--color",
            ],
        ),
        ("plan", &["--model", "--card", "--vram-budget", "--cpu-vae", "--quality-profile", "--json"]),
        ("inspect", &["<FILE>", "--model", "--tensors", "--json"]),
        ("models", &["list", "pull", "path", "verify", "rm"]),
        ("models pull", &["<NAME>", "--revision", "--json"]),
        ("config show", &["--json", "--steps"]),
    ];
    for (command, mentions) in commands {
        let mut arguments: Vec<&str> = command.split_whitespace().collect();
        arguments.push("--help");
        let outcome = sandbox.run(&arguments);
        for text in mentions {
            assert!(outcome.ok().contains(text), "{command} --help does not mention {text}");
        }
        assert_eq!(outcome.stderr, "", "{command}");
    }
    assert_eq!(sandbox.run(&["--version"]).ok(), format!("steadydance {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_level_of_instructions_that_is_none_is_told() {
    let sandbox = Sandbox::new();
    let mut program = sandbox.program();
    let output = program.env("STEADYDANCE_CPU_LEVEL", "avx1024").args(["models", "list"]).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("\"avx1024\"; expected portable, avx2, avx512") && told.lines().count() == 1, "{told}");
    let level = |level: &str| {
        let output = sandbox.program().env("STEADYDANCE_CPU_LEVEL", level).args(["doctor", "--json"]).output().unwrap();
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        found["cpu"]["instruction_set"].as_str().unwrap().to_owned()
    };
    assert_eq!(level("portable"), "portable");
    // Empty is none, and more than the machine has changes nothing.
    assert_eq!(level("avx512-bf16"), level(""));
}

#[test]
fn wrong_arguments_are_one_line_and_code_2() {
    let sandbox = Sandbox::new();
    sandbox.write("ref.png", png(64, 64));
    let cases: &[(&str, &[&str])] = &[
        ("", &["nothing to do", "--help"]),
        ("models", &["nothing to do"]),
        ("dance", &["'dance'"]),
        ("run --frames 5", &["'--frames'"]),
        ("run --num-frames", &["--num-frames"]),
        ("run --num-frames 80", &["num_frames is 80", "81"]),
        ("run --num-frames 0", &["num_frames is 0", "nearest 1"]),
        ("run --num-frames -5", &["-5"]),
        ("run --num-frames 4100000001", &["nearest 4085"]),
        ("run --num-frames 99999999999999999999999", &["--num-frames"]),
        ("run --size 7x5", &["7x5", "nearest 32x32"]),
        ("run --size 100000x100000", &["nearest 4096x4096"]),
        ("run --size 830x480", &["nearest 832x480"]),
        ("run --size 832", &["'832'", "WIDTHxHEIGHT"]),
        ("run --size 0x0", &["0x0"]),
        ("run --size-rule big", &["`big`", "area"]),
        ("run --preset nonsense", &["\"nonsense\"", "official", "distill-4step"]),
        ("run --sampler nonsense", &["nonsense", "unipc"]),
        ("run --steps many", &["'many'", "--steps"]),
        ("run --steps 0", &["steps is 0"]),
        ("run --fps 0", &["fps is 0"]),
        ("run --fps nan", &["fps is NaN"]),
        ("run --crf 52", &["crf is 52", "51"]),
        ("run --crf 300", &["300"]),
        ("run --dtype int3", &["int3", "bf16"]),
        ("run --timing later", &["`later`", "keep-time"]),
        ("run --audio loud", &["`loud`", "none"]),
        ("run --sigmas 1,x", &["\"x\""]),
        ("run --sigmas 0.5,0.7,0", &["sigmas"]),
        ("run --shift -1", &["-1"]),
        ("run --pose-guidance-interval 0.1", &["expected two"]),
        ("run --pose-guidance-interval 0.4,0.1", &["0.4"]),
        ("run --guidance-scale inf", &["inf"]),
        ("run --memory-budget 0", &["GiB above 0"]),
        ("run --cpu-vae --gpu-vae", &["--cpu-vae", "--gpu-vae"]),
        ("run --memory-mode stream --blocks-resident 3", &["--blocks-resident", "--memory-mode stream"]),
        ("run --memory-mode medium", &["medium", "partial"]),
        ("plan --quality-profile best", &["best", "balanced"]),
        ("plan --card 9090 --model steadydancer-14b", &["9090", "RTX 4090"]),
        ("run --seed -1", &["-1"]),
        ("run --lora a.pth:nan", &["a.pth:nan", "-100 to 100"]),
        ("run --color pink", &["pink"]),
        ("run -q -v", &["--quiet"]),
        ("run --neg-pose n --ref ref.png", &["--pose"]),
        ("run --pose a --keypoints b", &["--keypoints"]),
        ("run", &["--ref"]),
        ("run --ref ref.png", &["no motion", "--keypoints"]),
        ("run --ref ref.png --keypoints k.json --vae v.pth", &["v.pth", "--model"]),
        ("run --ref ref.png --keypoints k.json -o ref.png", &["ref.png", "input"]),
        ("run --ref ref.png --keypoints k.json -o ./ref.png --force", &["ref.png", "input"]),
        ("plan --num-frames 80", &["81"]),
        ("plan --model steadydancer-14b --size 7x5", &["32x32"]),
        ("inspect", &["<FILE>"]),
        ("completions tcsh", &["tcsh", "bash"]),
    ];
    for (line, mentions) in cases {
        sandbox.run(&line.split_whitespace().collect::<Vec<_>>()).fails(2, mentions);
    }
}

#[test]
fn an_existing_output_needs_force() {
    let sandbox = Sandbox::new();
    sandbox.write("ref.png", png(64, 64));
    sandbox.write("taken.mp4", "mine");
    let line = ["run", "--ref", "ref.png", "--keypoints", "k.json", "-o", "taken.mp4"];
    sandbox.run(&line).fails(2, &["taken.mp4", "--force"]);
    sandbox.write("ref-dance.mp4", "mine");
    sandbox.run(&line[..5]).fails(2, &["ref-dance.mp4", "--force"]);
    assert_eq!(std::fs::read(sandbox.work("taken.mp4")).unwrap(), b"mine");
}

#[test]
fn a_published_model_without_its_files_is_code_4() {
    let sandbox = Sandbox::new();
    let line = ["run", "--ref", "a.png", "--drive", "b.mp4", "--model", "steadydancer-14b"];
    sandbox.run(&line).fails(4, &["MCG-NJU/SteadyDancer-14B", "models pull steadydancer-14b", "--model PATH"]);
}

#[test]
fn failures_of_json_runs_are_events_too() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run(&["run", "--json", "--ref", "a.png", "--drive", "b.mp4", "--model", "steadydancer-14b"]);
    assert_eq!(outcome.code, Some(4));
    let event: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&event["event"], &event["kind"]), (&"error".into(), &"model".into()));
    assert_eq!(event["exit_code"], 4);
    assert!(outcome.stderr.contains(event["message"].as_str().unwrap()));
}

#[test]
fn models_are_listed_for_people_and_programs() {
    let sandbox = Sandbox::new();
    let list = sandbox.run(&["models", "list", "--json"]).json();
    assert_eq!(list[0]["name"], "demo");
    let people = sandbox.run(&["models", "list", "--all"]);
    for model in list.as_array().unwrap() {
        assert!(people.ok().contains(model["name"].as_str().unwrap()));
    }
}

#[test]
fn completions_name_the_commands() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let outcome = sandbox.run(&["completions", shell]);
        assert!(outcome.ok().contains("pose-guidance-interval"), "{shell}");
        assert_eq!(outcome.stderr, "");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let sandbox = Sandbox::new();
    for arguments in [&["completions", "bash"][..], &["--help"], &["models", "list", "--json"], &["config", "show"]] {
        let mut program = sandbox.program();
        program.args(arguments).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = program.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{arguments:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_behind_stdout_is_code_1() {
    let sandbox = Sandbox::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = sandbox.program().args(["models", "list"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: cannot write to stdout"));
}

#[test]
fn colours_follow_the_flag_and_the_variables() {
    let sandbox = Sandbox::new();
    let red = |arguments: &[&str], variables: &[(&str, &str)]| {
        sandbox.run_with(&[arguments, &["--steps", "x"]].concat(), variables).stderr.contains("\u{1b}[")
    };
    assert!(!red(&["run"], &[]));
    assert!(red(&["run", "--color", "always"], &[]));
    assert!(red(&["run"], &[("CLICOLOR_FORCE", "1")]));
    assert!(!red(&["run"], &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
    assert!(!red(&["run", "--color=never"], &[("CLICOLOR_FORCE", "1")]));
}
