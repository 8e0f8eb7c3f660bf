#!/usr/bin/env bash
# The kernels' unsafe code where it is looked at most closely: scripts/sanitize.sh [address|miri|arm ...], address without arguments.
#   address  the library's tests under the address sanitizer, every instruction set that the machine has (nightly)
#   miri     those of norms, residuals and rotary embeddings in portable code (nightly, component miri); slow: their grids of shapes take more than minutes
#   arm      the library's tests as NEON code under qemu (qemu-user, g++-aarch64-linux-gnu, rustup target aarch64-unknown-linux-gnu)
# Each keeps to a target folder of its own: SANITIZE_TARGET, or target/sanitize.
set -euo pipefail
cd "$(dirname "$0")/.."
into="${SANITIZE_TARGET:-target/sanitize}"

address() {
  # Another target than the host's, so that build scripts and macros are compiled without; and so is the emulated GPU, whose fibers it
  # would not understand. A test asks for more memory than there can be.
  ASAN_OPTIONS=allocator_may_return_null=1 CXXFLAGS=-fno-sanitize=address RUSTFLAGS=-Zsanitizer=address cargo +nightly test --locked -p steadydance-kernels --lib --target x86_64-unknown-linux-gnu --target-dir "$into/address"
}

miri() {
  # rayon's queues break the rules of stacked borrows, not those of tree borrows, and its threads outlive a test.
  MIRIFLAGS='-Zmiri-disable-isolation -Zmiri-ignore-leaks -Zmiri-tree-borrows' STEADYDANCE_CPU_LEVEL=portable \
    cargo +nightly miri test --locked -p steadydance-kernels --lib --target-dir "$into/miri" -- "${MIRI_TESTS[@]}"
}

arm() {
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER='qemu-aarch64 -L /usr/aarch64-linux-gnu'
  export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc CXX_aarch64_unknown_linux_gnu=aarch64-linux-gnu-g++
  cargo test --locked -p steadydance-kernels --lib --target aarch64-unknown-linux-gnu --target-dir "$into/arm"
}

MIRI_TESTS=(norm:: residual:: rope::)
[ $# -gt 0 ] || set -- address
for what in "$@"; do
  case $what in
    address | miri | arm) "$what" ;;
    *) echo "sanitize.sh: $what is none of address, miri, arm" >&2 && exit 2 ;;
  esac
done
