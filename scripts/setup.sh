#!/usr/bin/env bash
# Installs what building needs and is not here yet: FFmpeg's libraries, libclang for its bindings, a Rust toolchain.
# Does nothing on a machine that has them.
set -euo pipefail

libraries=(libavcodec libavformat libavutil libswscale libswresample)

have_libraries() {
  command -v pkg-config >/dev/null && pkg-config --exists "${libraries[@]}"
}

have_clang() {
  compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || compgen -G '/usr/lib/*/libclang*.so*' >/dev/null ||
    compgen -G '/usr/lib64/libclang*.so*' >/dev/null || [ -n "${LIBCLANG_PATH:-}" ] || [ "$(uname)" = Darwin ]
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

if ! have_libraries || ! have_clang || ! command -v cc >/dev/null; then
  if command -v apt-get >/dev/null; then
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      build-essential pkg-config libclang-dev "${libraries[@]/%/-dev}"
  elif command -v dnf >/dev/null; then
    as_root dnf install -y gcc pkgconf-pkg-config clang-devel ffmpeg-free-devel
  elif command -v brew >/dev/null; then
    brew install pkgconf ffmpeg
  else
    echo "please install pkg-config, libclang and FFmpeg's development files (${libraries[*]})" >&2
    exit 1
  fi
fi

if ! command -v cargo >/dev/null; then
  if [ -x "$HOME/.cargo/bin/cargo" ]; then
    echo "cargo is in $HOME/.cargo/bin: add that to PATH" >&2
    exit 1
  fi
  echo "no Rust toolchain found: installing one with rustup" >&2
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c clippy -c rustfmt
fi
