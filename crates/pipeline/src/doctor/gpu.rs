//! NVIDIA's GPUs as the driver's files and its own tool tell, without linking anything of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

/// How long the driver's tool may take; it hangs with a GPU that has fallen off the bus.
const PATIENCE: Duration = Duration::from_secs(5);

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Say `NVIDIA H200`.
    pub name: String,
    /// Version of the driver, where it tells.
    pub driver: Option<String>,
    /// Memory in bytes, where the driver's tool tells.
    pub memory_bytes: Option<u64>,
    /// Memory that is free.
    pub free_bytes: Option<u64>,
}

/// Where the driver is looked for.
pub(super) struct Places {
    /// The driver's folder of facts.
    pub facts: PathBuf,
    /// Its tool.
    pub tool: PathBuf,
}

impl Places {
    pub fn of_system() -> Self {
        Self { facts: "/proc/driver/nvidia".into(), tool: "nvidia-smi".into() }
    }
}

/// All of them: those that the tool lists, or else those in the driver's folder.
pub(super) fn find(places: &Places) -> Vec<Gpu> {
    let listed = ask(&places.tool).map(|text| text.lines().filter_map(listed).collect::<Vec<_>>());
    listed.filter(|gpus| !gpus.is_empty()).unwrap_or_else(|| from_facts(&places.facts))
}

/// `name, memory.total, memory.free, driver_version`; memory in MiB, `[N/A]` where it is shared with the host.
fn listed(line: &str) -> Option<Gpu> {
    let mut fields = line.rsplitn(4, ',').map(str::trim);
    let (driver, free, total, name) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let bytes = |mib: &str| mib.parse::<u64>().ok().map(|mib| mib.saturating_mul(1 << 20));
    let driver = version(driver);
    (!name.is_empty()).then(|| Gpu {
        name: name.to_owned(),
        driver,
        memory_bytes: bytes(total),
        free_bytes: bytes(free),
    })
}

/// What the tool writes; `None` if there is none, it fails, or it takes too long.
fn ask(tool: &Path) -> Option<String> {
    let mut command = Command::new(tool);
    command.args(["--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader,nounits"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let end = Instant::now() + PATIENCE;
    while child.try_wait().ok()?.is_none() {
        if Instant::now() >= end {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // It has ended, and a few lines fit the pipe.
    let output = child.wait_with_output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `version` and `gpus/BUS/information` below `/proc/driver/nvidia`.
fn from_facts(folder: &Path) -> Vec<Gpu> {
    let driver = fs::read_to_string(folder.join("version")).ok().and_then(|text| version(text.lines().next()?));
    let Ok(entries) = fs::read_dir(folder.join("gpus")) else { return Vec::new() };
    let mut buses: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    buses.sort();
    let gpu = |bus: &PathBuf| {
        let text = fs::read_to_string(bus.join("information")).ok()?;
        let name = text.lines().find_map(|l| l.strip_prefix("Model:"))?.trim().to_owned();
        Some(Gpu { name, driver: driver.clone(), memory_bytes: None, free_bytes: None })
    };
    buses.iter().filter_map(gpu).collect()
}

/// The first word that is numbers with points between them.
fn version(text: &str) -> Option<String> {
    let is_one = |word: &&str| {
        word.contains('.') && word.split('.').all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
    };
    text.split_whitespace().find(is_one).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_folder_tells_names_and_version() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places { facts: folder.path().to_owned(), tool: folder.path().join("no-tool") };
        assert_eq!(find(&places), []);
        for (bus, model) in [("0000:81:00.0", "NVIDIA RTX A6000"), ("0000:01:00.0", "NVIDIA H200")] {
            let gpu = folder.path().join("gpus").join(bus);
            fs::create_dir_all(&gpu).unwrap();
            fs::write(gpu.join("information"), format!("Model: \t\t {model}\nIRQ:   \t\t 74\n")).unwrap();
        }
        let names = |gpus: &[Gpu]| gpus.iter().map(|g| g.name.clone()).collect::<Vec<_>>();
        assert_eq!(
            (names(&find(&places)), find(&places)[0].driver.clone()),
            (vec!["NVIDIA H200".into(), "NVIDIA RTX A6000".into()], None)
        );
        for (text, driver) in [
            (
                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC",
                "535.104.05",
            ),
            ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86  Release Build  (x@y)\n", "570.86"),
        ] {
            fs::write(folder.path().join("version"), text).unwrap();
            assert_eq!(find(&places)[1].driver.as_deref(), Some(driver));
        }
        assert_eq!(version("no numbers 1. .2 a.b"), None);
    }

    #[test]
    fn the_tools_lines_are_read() {
        let gpu = listed("NVIDIA H200, 143771, 143166, 570.124.06").unwrap();
        assert_eq!((gpu.name.as_str(), gpu.driver.as_deref()), ("NVIDIA H200", Some("570.124.06")));
        assert_eq!((gpu.memory_bytes, gpu.free_bytes), (Some(143_771 << 20), Some(143_166 << 20)));
        let shared = listed("NVIDIA GB10, a part, [N/A], [N/A], 580.95.05").unwrap();
        assert_eq!((shared.name.as_str(), shared.memory_bytes), ("NVIDIA GB10, a part", None));
        assert_eq!(listed("No devices were found"), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_tool_that_fails_is_none() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let tool = folder.path().join("tool");
        let places = Places { facts: folder.path().join("none"), tool: tool.clone() };
        let script = |text: &str| {
            fs::write(&tool, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        };
        script("echo 'NVIDIA X, 2, 1, 1.2'; exit 9");
        assert_eq!(find(&places), []);
        script("echo 'NVIDIA X, 2, 1, 1.2'");
        assert_eq!(find(&places).len(), 1);
    }
}
