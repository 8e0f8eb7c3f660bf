//! Builds `libcuda.so.1`: the emulator, the fake driver, and the CUDA kernels as C++.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    println!("cargo:rustc-env=EMULATED_GPU_LIBRARY={}", out.join("libcuda.so.1").display());
    let sources = manifest.join("src");
    let kernels = manifest.join("../cuda");
    for watched in [&sources, &kernels] {
        println!("cargo:rerun-if-changed={}", watched.display());
    }
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return; // signals, mappings and the library's name are Linux's
    }
    let mut files = with_extension(&sources, "cpp");
    files.extend(with_extension(&sources, "cu"));
    files.extend(with_extension(&kernels, "cu"));
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++20")
        .opt_level(2)
        .debug(false)
        .pic(true)
        .flag("-fvisibility=hidden")
        // A misaligned vector access or an index outside of an array is an instruction that traps, and the emulator reports it.
        .flag("-fsanitize=alignment,bounds")
        .flag("-fsanitize-undefined-trap-on-error")
        .flag("-Wno-unknown-pragmas")
        .include(&sources)
        .include(&kernels)
        .define("SD_EMULATED", None)
        .flag("-x")
        .flag("c++")
        .files(files);
    let objects = build.compile_intermediates();
    let mut link = Command::new(build.get_compiler().path());
    link.args(["-shared", "-Wl,-soname,libcuda.so.1", "-Wl,-z,defs", "-o"])
        .arg(out.join("libcuda.so.1"))
        .args(objects)
        .arg("-lpthread");
    let done = link.status();
    assert!(
        done.as_ref().is_ok_and(std::process::ExitStatus::success),
        "linking the emulated GPU: {done:?}; a C++20 compiler is needed"
    );
}

/// Files of a folder, in order.
fn with_extension(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    files
}
