"""Pictures of many looks, squashed to the vision tower's square: what the text and image encoders are trained on.

    python -m recipe.pictures FOLDER --count 6000 [--first 1000000] [--split train]

Shards of 250 seeds. Of every pair two frames of the truth are kept, the reference picture and a later one, with the figure's mask. The
looks are those of `puppets.pairs.sample_pair` for the same seeds.
"""

import argparse
import os
from pathlib import Path

import cv2
import numpy as np
import torch

from puppets.pairs import sample_pair

from .clips import clip_size
from .encoders import squash

SIDE, FRAMES, SHARD = 112, 17, 250


def _draw(seed, split):
    rng = np.random.default_rng([seed, 0x91C])
    pair = sample_pair(seed, split, size=clip_size(seed), frames=FRAMES)
    drawn = [pair.truth.frame(t) for t in (0, int(rng.integers(4, FRAMES)))]
    pictures = squash(np.stack([picture for picture, _ in drawn]), SIDE)
    masks = [cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for _, mask in drawn]
    return pictures.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy(), np.stack(masks), pair.prompt


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--first", type=int, default=1_000_000)
    parser.add_argument("--split", default="train")
    a = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    a.folder.mkdir(parents=True, exist_ok=True)
    for first in range(a.first, a.first + a.count, SHARD):
        path = a.folder / f"{a.split}-{first:08}.npz"
        if path.exists():
            continue
        seeds = np.arange(first, min(first + SHARD, a.first + a.count))
        pictures, masks, prompts = zip(*(_draw(int(seed), a.split) for seed in seeds))
        part = path.with_suffix(".part")
        with open(part, "wb") as file:
            np.savez(file, pictures=np.stack(pictures), masks=np.stack(masks), prompts=np.array(prompts), seeds=seeds)
        os.replace(part, path)


if __name__ == "__main__":
    main()
