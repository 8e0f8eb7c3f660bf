#!/usr/bin/env bash
# From a fresh clone to a first clip: sets up, builds, and animates the example picture with the embedded demo model.
# usage: scripts/demo.sh [OUTPUT.mp4]        STEADYDANCE_PROFILE=dev builds without release optimisation
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
[ -x "$HOME/.cargo/bin/cargo" ] && PATH="$HOME/.cargo/bin:$PATH"

profile=${STEADYDANCE_PROFILE:-release}
cargo build --locked --profile "$profile" --bin steadydance
target=${CARGO_TARGET_DIR:-target}
folder=$profile
[ "$profile" = dev ] && folder=debug

"$target/$folder/steadydance" run --ref examples/media/reference.png --keypoints examples/media/dance.json --drive examples/media/dance.mp4 \
  --num-frames 33 --force --output "${1:-dance.mp4}"
