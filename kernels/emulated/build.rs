//! Builds `libcuda.so.1`: the emulator, the fake driver, and the CUDA kernels as C++. A file is compiled again when it or a header has
//! changed.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let library = out.join("libcuda.so.1");
    println!("cargo::rustc-env=EMULATED_GPU_LIBRARY={}", library.display());
    let folders = [manifest.join("src"), manifest.join("../cuda")];
    println!("cargo::rerun-if-changed=build.rs");
    for folder in &folders {
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return; // signals, mappings and the library's name are Linux's
    }
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++20")
        .opt_level(2)
        .debug(false)
        .pic(true)
        .define("SD_EMULATED", None)
        .flag("-fvisibility=hidden")
        // A misaligned vector access or an index outside of an array is an instruction that traps, and the emulator reports it.
        .flag("-fsanitize=alignment,bounds")
        .flag("-fsanitize-undefined-trap-on-error")
        .flag("-Wno-unknown-pragmas")
        .includes(&folders);
    let compiler = build.get_compiler();

    let (sources, headers): (Vec<_>, Vec<_>) = folders
        .iter()
        .flat_map(|folder| files(folder))
        .partition(|file| file.extension().is_some_and(|e| e == "cpp" || e == "cu"));
    let mut common = DefaultHasher::new();
    format!("{compiler:?}").hash(&mut common);
    for header in &headers {
        fs::read(header).unwrap_or_default().hash(&mut common);
    }
    let object = |source: &Path| out.join(source.with_extension("o").file_name().unwrap_or_default());
    let queue = Mutex::new(sources.clone());
    let threads = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize).clamp(1, 16);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(source) = queue.lock().ok().and_then(|mut queue| queue.pop()) {
                    compile(compiler.to_command(), &source, &object(&source), common.clone());
                }
            });
        }
    });
    let mut link = Command::new(compiler.path());
    link.args(["-shared", "-Wl,-soname,libcuda.so.1", "-Wl,-z,defs", "-o"]).arg(library);
    run(link.args(sources.iter().map(|source| object(source))).arg("-lpthread"));
}

/// All but what Rust is written in, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e != "rs")).collect();
    files.sort();
    files
}

fn compile(mut compiler: Command, source: &Path, object: &Path, mut hash: DefaultHasher) {
    fs::read(source).unwrap_or_default().hash(&mut hash);
    let (hash, stamp) = (hash.finish().to_string(), object.with_extension("hash"));
    if object.exists() && fs::read_to_string(&stamp).is_ok_and(|old| old == hash) {
        return;
    }
    run(compiler.args(["-x", "c++", "-c"]).arg(source).arg("-o").arg(object));
    assert!(fs::write(&stamp, hash).is_ok(), "{} cannot be written", stamp.display());
}

fn run(command: &mut Command) {
    let done = command.status();
    assert!(
        done.as_ref().is_ok_and(std::process::ExitStatus::success),
        "{command:?}: {done:?}; g++ 10 or clang 12 is needed"
    );
}
