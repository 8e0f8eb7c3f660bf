"""Writes the demo model's files as the program reads them: python -m recipe.export MODELS_DEMO --vae FILE [--dit FILE] [--lora FILE]

bfloat16 under the release's names, and the networks' sizes in `steadydance.json`.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from . import dit, vae
from .drawn import AREA


def write(state, path, note):
    tensors = {k: v.detach().bfloat16().contiguous().clone() for k, v in sorted(state.items())}
    save_file(tensors, path, metadata={"format": "pt", "note": note})
    print(path.name, sum(v.numel() for v in tensors.values()), "parameters,", path.stat().st_size, "bytes")


def configure(folder, **parts):
    path = folder / "steadydance.json"
    sizes = json.loads(path.read_text()) | parts
    path.write_text(json.dumps(sizes, indent=2, sort_keys=True) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vae", type=Path)
    parser.add_argument("--dit", type=Path)
    parser.add_argument("--lora", type=Path)
    a = parser.parse_args()
    if a.vae:
        saved = torch.load(a.vae, map_location="cpu")
        write(saved["average"], a.folder / "vae.safetensors", f"steadydance demo model: VAE after {saved['step']} steps")
        statistics = {k: [round(x, 4) for x in saved[k].tolist()] for k in ("mean", "std")}
        configure(a.folder, vae=vae.CONFIG | statistics)
    if a.dit:
        saved = torch.load(a.dit, map_location="cpu")
        write(saved["average"], a.folder / "dit.safetensors", f"steadydance demo model: DiT after {saved['step']} steps")
        side = int(AREA**0.5)
        configure(a.folder, dit=dit.CONFIG, pose_canvas=[side, side])
    if a.lora:
        saved = torch.load(a.lora, map_location="cpu")
        write(saved["lora"], a.folder / "distill_4step_lora.safetensors", f"steadydance demo model: 4 steps without guidance, after {saved['step']} steps")


if __name__ == "__main__":
    main()
