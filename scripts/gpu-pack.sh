#!/usr/bin/env bash
# Builds everything that scripts/gpu.sh needs on a machine with a GPU and neither cargo nor internet, and packs it into one file.
#
#   scripts/gpu-pack.sh [FOLDER]        FOLDER/gpu.tar.xz [target/gpu]
#
# The program and all tests that run on a real GPU, with GPU code for STEADYDANCE_CUDA (90a; 80,86,89,90a,120 for all), and that code as
# files. STEADYDANCE_PROFILE=dev builds without release optimisation. An nvcc is needed in CUDA_HOME or PATH (scripts/cuda-toolkit.sh).
# Files of models/demo are cut out of the programs, because they are in the checkout there too: scripts/gpu.sh puts them back.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x "$HOME/.cargo/bin/cargo" ] && PATH="$HOME/.cargo/bin:$PATH"
out=${1:-target/gpu}
export STEADYDANCE_CUDA=${STEADYDANCE_CUDA:-90a}
profile=${STEADYDANCE_PROFILE:-release}
[ -z "${CUDA_HOME:-}" ] || PATH="$CUDA_HOME/bin:$PATH"
command -v nvcc >/dev/null || {
  echo "there is no nvcc in CUDA_HOME or PATH; scripts/cuda-toolkit.sh FOLDER gets one" >&2
  exit 1
}

# Tests that know how to use a real GPU say so.
tests=()
while read -r file; do
  package=${file%%/tests/*}
  name=${file#*/tests/}
  name=${name%%/*}
  tests+=("$(sed -n 's/^name = "\(.*\)"/\1/p;' "$package/Cargo.toml" | head -1) ${name%.rs}")
done < <(grep -rlE 'STEADYDANCE_TEST_GPU|^mod driver;' kernels/tests kernels/emulated/tests crates/*/tests --include='*.rs' | grep -v '/driver/\|/emulator.rs')
mapfile -t tests < <(printf '%s\n' "${tests[@]}" | sort -u)

rm -rf "$out"
mkdir -p "$out/gpu/tests" "$out/gpu/code"
messages=$out/messages
cargo build --locked --profile "$profile" --bin steadydance --message-format json-render-diagnostics >"$messages"
for test in "${tests[@]}"; do
  read -r package name <<<"$test"
  cargo test --locked --profile "$profile" --no-run -p "$package" --test "$name" --message-format json-render-diagnostics >>"$messages"
done

python3 scripts/gpu_pack.py "$messages" "$out/gpu"
git rev-parse HEAD >"$out/gpu/commit"
tar -C "$out" --owner 0 --group 0 -c gpu | xz -T1 --x86 --lzma2=preset=6,dict=192MiB >"$out/gpu.tar.xz"
rm -rf "$out/gpu" "$messages"
packed=$(stat -c %s "$out/gpu.tar.xz")
tree=$(git ls-files -z | xargs -0 stat -c %s 2>/dev/null | awk '{ sum += $1 } END { print sum }')
echo "$out/gpu.tar.xz: $((packed / 1024)) KiB; with the checkout $(((packed + tree) / 1048576)) MiB"
[ $((packed + tree)) -le $((64 << 20)) ] ||
  echo "more than the 64 MiB that a lent machine takes: leave tests/fixtures out of the working tree for the call (git sparse-checkout)" >&2
