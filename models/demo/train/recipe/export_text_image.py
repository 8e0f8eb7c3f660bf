"""Writes the trained text encoder, vision tower and tokenizer where the engine and the video model's training read them.

    python -m recipe.export_text_image FOLDER --tokenizer FOLDER/tokenizer.json [--demo ..]

FOLDER/checkpoint.pt → FOLDER/model.pt (for `recipe.encoders.load_encoders`); with `--demo` also `umt5.safetensors`,
`clip.safetensors`, `tokenizer.json` and the keys "umt5" and "clip" of `steadydance.json` there. All weights are bf16.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from .text_image import CLIP, UMT5

NOTE = "steadydance demo model: trained on drawn puppets (models/demo/train)"


def part(state, name):
    """The tensors of one network, bf16, by its own names."""
    return {key.removeprefix(f"{name}."): t.bfloat16().contiguous() for key, t in state.items() if key.startswith(f"{name}.")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--demo", type=Path)
    a = parser.parse_args()
    state = torch.load(a.folder / "checkpoint.pt", weights_only=True)["model"]
    configs = {"umt5": {**UMT5, "vocab": Tokenizer.from_file(str(a.tokenizer)).get_vocab_size()}, "clip": CLIP}
    weights = {name: part(state, name) for name in configs}
    saved = {f"{name}_config": config for name, config in configs.items()}
    saved |= {name: {key: t.float() for key, t in tensors.items()} for name, tensors in weights.items()}
    saved["tokenizer"] = a.tokenizer.read_text(encoding="utf-8")
    torch.save(saved, a.folder / "model.part")
    os.replace(a.folder / "model.part", a.folder / "model.pt")
    if a.demo:
        for name, tensors in weights.items():
            save_file(tensors, a.demo / f"{name}.safetensors", {"note": NOTE})
        shutil.copyfile(a.tokenizer, a.demo / "tokenizer.json")
        path = a.demo / "steadydance.json"
        config = json.loads(path.read_text()) | configs
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
