"""Rendered pairs on disk: what every training reads, so that drawing is paid for once.

    python -m recipe.clips FOLDER --count 2000 [--first 0] [--frames 17]

One `.npz` a pair, written whole or not at all; existing ones are kept, so a run that was stopped goes on where it was.
"""

import argparse
import os
from pathlib import Path

import cv2
import numpy as np

from puppets.pairs import sample_pair

# Width and height of what the demo model makes, most often the first.
SIZES = ((160, 224), (192, 192), (224, 160))
_SHARES = (0.7, 0.15, 0.15)


def clip_size(seed):
    return SIZES[np.random.default_rng([seed, 0x512E]).choice(len(SIZES), p=_SHARES)]


def render(seed, frames, split="train"):
    """A pair as arrays. Windows begin anywhere in the first three seconds of a dance, a third of them at its start."""
    rng = np.random.default_rng([seed, 0xC119])
    start = int(rng.integers(1, 48)) if rng.random() < 0.67 else 0
    size = clip_size(seed)
    pair = sample_pair(seed, split, size=size, frames=frames, start=start)
    truth, mask = pair.truth.video()
    return {
        "truth": truth,
        "mask": mask,
        "pose": pair.pose.keypoints().astype(np.float32),
        "driving": pair.driving.keypoints().astype(np.float32),
        "driving_size": np.array(pair.driving.size),
        "reference": pair.reference.keypoints()[0].astype(np.float32),
        "prompt": np.array(pair.prompt),
        "seed": np.array(seed),
    }


def clips(folder):
    return sorted(Path(folder).glob("*.npz"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--split", default="train")
    a = parser.parse_args()
    cv2.setNumThreads(1)
    a.folder.mkdir(parents=True, exist_ok=True)
    for seed in range(a.first, a.first + a.count):
        path = a.folder / f"{seed:07}.npz"
        if path.exists():
            continue
        part = path.with_suffix(".part")
        with open(part, "wb") as file:
            np.savez(file, **render(seed, a.frames, a.split))
        os.replace(part, path)


if __name__ == "__main__":
    main()
