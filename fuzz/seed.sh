#!/usr/bin/env bash
# Copies fixtures into the targets' corpora, without the beginnings that the targets put before their inputs.
set -euo pipefail
cd "$(dirname "$0")"
fixtures=../crates/weights/tests/fixtures

seed() {
  mkdir -p "corpus/$1"
  tail -c "+$(($2 + 1))" "$3" >"corpus/$1/$(basename "$3")"
}

for file in "$fixtures"/formats/*.safetensors; do seed safetensors 0 "$file"; done
for file in "$fixtures"/formats/*.gguf; do seed gguf 8 "$file"; done
for file in "$fixtures"/formats/{protocol*,fp8,turbo}.pth; do seed pickle_zip 4 "$file"; done
seed pickle_legacy 21 "$fixtures/formats/legacy.pth"
for file in ../models/manifests/*.toml; do seed manifest 0 "$file"; done
mkdir -p corpus/lora
for file in "$fixtures"/lora/*.safetensors; do
  strings "$file" | grep -oE '"[A-Za-z0-9_.]+":\{' | tr -d '":{' >"corpus/lora/$(basename "$file").txt" || true
done
