#!/usr/bin/env bash
# Everything that must hold: format, lints, tests, documentation, and the README's first command.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
[ -x "$HOME/.cargo/bin/cargo" ] && PATH="$HOME/.cargo/bin:$PATH"

step() {
  printf '\n== %s (%d s)\n' "$1" "$SECONDS"
}

step format
cargo fmt --all --check

step tests
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --locked --workspace --no-fail-fast
else
  cargo test --locked --workspace --lib --bins --tests
fi

step 'documentation examples'
cargo test --locked --workspace --doc --quiet

step 'examples build'
cargo build --locked --examples

step lints
cargo clippy --locked --workspace --all-targets -- -D warnings

step documentation
RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps

step 'the first command of the README'
clip=$(mktemp -d)
trap 'rm -rf "$clip"' EXIT
STEADYDANCE_PROFILE=dev scripts/demo.sh "$clip/dance.mp4"
[ -s "$clip/dance.mp4" ]

step done
