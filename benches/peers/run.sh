#!/bin/sh
# Sets up PyTorch in a folder of its own and measures it beside a release build: benches/peers/run.sh [CASE ...]
set -eu
cd "$(dirname "$0")/../.."
venv="${PEERS_VENV:-target/peers}"
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 diffusers==0.42.1 transformers==5.23.0 ftfy==6.3.1
fi
cargo build --release --locked --bin steadydance
exec "$venv/bin/python" benches/peers/compare.py target/release/steadydance --json target/peers.json "$@"
