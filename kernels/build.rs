//! Compiles the kernels in `cuda/` for GPUs, where there is an `nvcc`, and embeds them; elsewhere there is nothing to embed.
//!
//! `STEADYDANCE_CUDA` may be `off` (do not look for a compiler), `on` (fail without one), or a list of architectures
//! (`86` or `80,90a`) to compile for instead of all, which is quicker.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Every GPU since 2020 that networks are computed on; those to come are served by the oldest's portable form.
const ARCHITECTURES: [&str; 5] = ["80", "86", "89", "90a", "120"];

fn main() -> Result<()> {
    for variable in ["STEADYDANCE_CUDA", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=cuda");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let wish = env::var("STEADYDANCE_CUDA").unwrap_or_default();
    let compiler = if wish == "off" { None } else { compiler() };
    let code = match compiler {
        Some(nvcc) => {
            let architectures = match wish.as_str() {
                "" | "on" => nvcc.known(&ARCHITECTURES)?,
                list => list.split(',').map(str::trim).map(str::to_owned).collect(),
            };
            embed(&nvcc, &architectures, &out)?
        }
        None if matches!(wish.as_str(), "" | "off") => "const IMAGES: &[(&str, &[u8])] = &[];\nconst TOOLKIT: u32 = 0;\n".to_owned(),
        None => return Err("STEADYDANCE_CUDA asks for GPU code, and there is no nvcc in CUDA_HOME, CUDA_PATH or PATH; scripts/cuda-toolkit.sh gets one".into()),
    };
    write_if_other(&out.join("cuda_code.rs"), code.as_bytes())
}

struct Nvcc {
    program: PathBuf,
    /// As the driver counts: 13000 for 13.0.
    version: u32,
}

/// The first that runs.
fn compiler() -> Option<Nvcc> {
    let name = format!("nvcc{}", env::consts::EXE_SUFFIX);
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(|home| Path::new(&home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    homes.chain(env::split_paths(&path)).find_map(|folder| {
        let program = folder.join(&name);
        let told = Command::new(&program).arg("--version").output().ok().filter(|o| o.status.success())?;
        let text = String::from_utf8_lossy(&told.stdout).into_owned();
        let (_, rest) = text.split_once("release ")?;
        let (major, minor) = rest.split(|c: char| !(c.is_ascii_digit() || c == '.')).next()?.split_once('.')?;
        Some(Nvcc { program, version: 1000 * major.parse::<u32>().ok()? + 10 * minor.parse::<u32>().ok()? })
    })
}

impl Nvcc {
    /// Those of the architectures that it compiles for.
    fn known(&self, wanted: &[&str]) -> Result<Vec<String>> {
        let listed = Command::new(&self.program).arg("--list-gpu-code").output()?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let known =
            |a: &&&str| listed.split_whitespace().any(|l| l.strip_prefix("sm_") == Some(a.trim_end_matches('a')));
        Ok(wanted.iter().filter(known).map(|a| (*a).to_owned()).collect())
    }
}

/// Compiles every file that has changed, and gives the source that names the results.
fn embed(nvcc: &Nvcc, architectures: &[String], out: &Path) -> Result<String> {
    let mut files: Vec<PathBuf> = fs::read_dir("cuda")?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    files.sort();
    let (sources, headers): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|f| f.extension().is_some_and(|e| e == "cu"));
    let mut common = DefaultHasher::new();
    (nvcc.version, architectures).hash(&mut common);
    for header in &headers {
        fs::read(header)?.hash(&mut common);
    }
    let images = sources.iter().map(|source| out.join(source.with_extension("fatbin").file_name().unwrap_or_default()));
    let jobs: Vec<(PathBuf, PathBuf)> = sources.iter().cloned().zip(images).collect();
    // As many at a time as cargo has been given, the longest first.
    let mut queue = jobs.clone();
    queue.sort_by_key(|(source, _)| fs::metadata(source).map_or(0, |m| m.len()));
    let (queue, failed) = (Mutex::new(queue), Mutex::new(Vec::new()));
    let threads = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize).clamp(1, jobs.len().max(1));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let next = || queue.lock().ok().and_then(|mut q| q.pop());
                while let Some((source, image)) = next() {
                    if let Err(error) = compile(nvcc, architectures, &source, &image, common.clone())
                        && let Ok(mut failed) = failed.lock()
                    {
                        failed.push(error.to_string());
                    }
                }
            });
        }
    });
    let failed = failed.into_inner()?;
    if !failed.is_empty() {
        let failed = failed.join("\n");
        return Err(format!("{failed}\nset STEADYDANCE_CUDA=off to build without GPU code").into());
    }
    let mut code = "const IMAGES: &[(&str, &[u8])] = &[\n".to_owned();
    for (_, image) in &jobs {
        let name = image.file_stem().unwrap_or_default().to_string_lossy();
        writeln!(code, "    ({name:?}, include_bytes!({:?})),", image.display().to_string())?;
    }
    writeln!(code, "];\nconst TOOLKIT: u32 = {};", nvcc.version)?;
    Ok(code)
}

fn compile(nvcc: &Nvcc, architectures: &[String], source: &Path, image: &Path, mut hash: DefaultHasher) -> Result<()> {
    fs::read(source)?.hash(&mut hash);
    let (hash, hash_file) = (format!("{:x}", hash.finish()), image.with_extension("hash"));
    if image.exists() && fs::read_to_string(&hash_file).is_ok_and(|old| old == hash) {
        return Ok(());
    }
    let mut command = Command::new(&nvcc.program);
    command.args(["-fatbin", "-std=c++17", "-O3", "-Xfatbin", "-compress-all", "-o"]).arg(image).arg(source);
    for architecture in architectures {
        command.arg(format!("-gencode=arch=compute_{architecture},code=sm_{architecture}"));
    }
    // Compiled by drivers for what comes later.
    if let Some(oldest) = architectures.first().map(|a| a.trim_end_matches('a')) {
        command.arg(format!("-gencode=arch=compute_{oldest},code=compute_{oldest}"));
    }
    let done = command.output()?;
    if !done.status.success() {
        let (said, told) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        return Err(format!("nvcc cannot compile {}:\n{said}{told}", source.display()).into());
    }
    fs::write(hash_file, hash)?;
    Ok(())
}

/// Leaves a file that is as it should be alone.
fn write_if_other(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    Ok(fs::write(path, content)?)
}
