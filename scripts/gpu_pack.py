"""Collects what scripts/gpu-pack.sh has built: python3 gpu_pack.py CARGO_MESSAGES FOLDER

Programs are stripped, and files of models/demo cut out of them (cuts.json says what goes where: the checkout has them). Of the libraries
that they need FFmpeg's own and x264 come along; what these need besides, a hundred libraries for formats that are not used here, are
replaced by ones of the same names whose functions do nothing: FFmpeg then finds that they can do nothing.
"""

import collections
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

# On every system.
SYSTEM = re.compile(r"(libc|libm|libgcc_s|libstdc\+\+|libdl|librt|libpthread)\.so|ld-linux|linux-vdso")
# Taken along as they are; gme is asked about every file.
KEPT = re.compile(r"lib(avcodec|avformat|avutil|swscale|swresample|x264|gme|z|lzma|bz2)\.so")


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def programs(messages):
    """Where each program goes, and the folder of the GPU's code."""
    found, code = {}, None
    with open(messages) as file:
        for message in map(json.loads, file):
            package = message.get("package_id", "").split("#")[0].rsplit("/", 1)[-1]
            if message.get("executable"):
                target = message["target"]
                found["steadydance" if "bin" in target["kind"] else f"tests/{package}-{target['name']}"] = message["executable"]
            if message.get("reason") == "build-script-executed" and package == "kernels":
                code = message["out_dir"]
    return found, code


def cut_models(folder, names):
    """Zeros in the place of files that the checkout has."""
    cuts = []
    files = [f for f in sorted(glob.glob("models/demo/**/*", recursive=True)) if os.path.isfile(f) and os.path.getsize(f) > 100_000]
    contents = [(f, open(f, "rb").read()) for f in files]
    for name in names:
        with open(f"{folder}/{name}", "rb") as file:
            program = bytearray(file.read())
        for path, content in contents:
            at = program.find(content)
            if at >= 0:
                program[at : at + len(content)] = bytes(len(content))
                cuts.append({"program": name, "file": path, "at": at, "sha256": hashlib.sha256(content).hexdigest()})
        with open(f"{folder}/{name}", "wb") as file:
            file.write(program)
    with open(f"{folder}/cuts.json", "w") as file:
        json.dump(cuts, file, indent=1)
    return len(cuts)


def needed(path):
    return re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-dW", path))


def imports(path):
    """(library, version or none, name, whether it is data) of symbols that come from elsewhere and must be there."""
    versions, library = {}, None
    for line in output("readelf", "-VW", path).splitlines():
        if found := re.search(r"File: (\S+)", line):
            library = found[1]
        elif found := re.search(r"Name: (\S+)\s+Flags: .*Version: (\d+)", line):
            versions[found[2]] = library
    for line in output("readelf", "--dyn-syms", "-W", path).splitlines():
        parts = line.split()
        if len(parts) > 7 and parts[6] == "UND" and parts[4] != "WEAK":
            name, _, version = parts[7].partition("@")
            number = parts[8].strip("()") if len(parts) > 8 else ""
            yield versions.get(number), version or None, name, parts[3] == "OBJECT"


def libraries(folder, names, sources):
    """FFmpeg for the programs."""
    paths = {}
    for source in sources:
        for line in output("ldd", source).splitlines():
            name, _, path = line.strip().partition(" => ")
            if path.startswith("/"):
                paths[name] = path.split(" ")[0]
    kept = {name: path for name, path in paths.items() if KEPT.match(name)}
    if not any(name.startswith("libav") for name in kept):
        return 0
    os.makedirs(f"{folder}/lib", exist_ok=True)
    wanted, exported, unversioned = set(), set(), set()
    for name, path in kept.items():
        shutil.copy(path, f"{folder}/lib/{name}")
        subprocess.run(["strip", "--strip-unneeded", f"{folder}/lib/{name}"], check=False)
    everything = list(kept.values()) + [f"{folder}/{name}" for name in names]
    for path in everything:
        wanted.update(n for n in needed(path) if n not in kept and not SYSTEM.match(n))
    for path in list(kept.values()) + [p for n, p in paths.items() if SYSTEM.match(n)]:
        for line in output("readelf", "--dyn-syms", "-W", path).splitlines():
            parts = line.split()
            if len(parts) > 7 and parts[6] not in ("UND", "Ndx"):
                exported.add(parts[7].split("@")[0])
    symbols = collections.defaultdict(lambda: collections.defaultdict(dict))
    for path in everything:
        for library, version, name, data in imports(path):
            if library in wanted:
                symbols[library][version][name] = data
            elif library is None and name not in exported:
                unversioned.add((name, data))
    # Which library has what has no version does not matter to the loader.
    first = min(wanted) if wanted else None
    for name, data in unversioned:
        symbols[first][None][name] = data
    with tempfile.TemporaryDirectory() as place:
        for library in sorted(wanted):
            source, script = f"{place}/stub.c", f"{place}/stub.map"
            with open(source, "w") as c, open(script, "w") as versions:
                for version, of_version in symbols[library].items():
                    for name, data in of_version.items():
                        c.write(f"char {name}[4096];\n" if data else f"long {name}(void) {{ return 0; }}\n")
                    if version:
                        versions.write(f"{version} {{ global: {' '.join(n + ';' for n in of_version)} }};\n")
            flags = ["-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{library}", "-o", f"{folder}/lib/{library}", source]
            if os.path.getsize(script):
                flags.append(f"-Wl,--version-script={script}")
            subprocess.run(["cc", *flags], check=True)
            subprocess.run(["strip", f"{folder}/lib/{library}"], check=True)
    return len(kept)


def main():
    messages, folder = sys.argv[1:]
    found, code = programs(messages)
    for name, program in found.items():
        os.makedirs(os.path.dirname(f"{folder}/{name}"), exist_ok=True)
        shutil.copy(program, f"{folder}/{name}")
        subprocess.run(["strip", f"{folder}/{name}"], check=True)
    images = sorted(glob.glob(f"{code}/*.fatbin"))
    if not images:
        sys.exit(f"there is no GPU code in {code}")
    os.makedirs(f"{folder}/code", exist_ok=True)
    for image in images:
        shutil.copy(image, f"{folder}/code")
    cut = cut_models(folder, found)
    kept = libraries(folder, found, list(found.values()))
    print(f"{len(found)} programs, {len(images)} files of GPU code, {cut} files cut out, {kept} libraries")


if __name__ == "__main__":
    main()
