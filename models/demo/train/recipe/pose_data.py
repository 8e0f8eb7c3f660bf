"""Rendered frames with keypoints on disk: what the pose networks learn from.

    python -m recipe.pose_data FOLDER --first 1000000 --count 1500 [--split held-out]

One `.npz` a seed, written whole or not at all; existing ones are kept. Each holds frames of both puppets of a pair from anywhere
in the first nine seconds of their dance (so that they are seen from all sides), in sizes from a phone's thumbnail to 640 pixels.
"""

import argparse
import os
from pathlib import Path

import cv2
import numpy as np

from puppets.pairs import SIZES, sample_pair

from .clips import SIZES as DEMO_SIZES

FRAMES = 12
FPS = 1.3
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


def frame_size(rng):
    """Width and height: those of the demo, those of the generator, or any."""
    kind = rng.random()
    if kind < 0.4:
        return DEMO_SIZES[rng.integers(len(DEMO_SIZES))]
    if kind < 0.65:
        return SIZES[rng.integers(len(SIZES))]
    long = rng.uniform(256, 640)
    short = max(long * rng.uniform(0.5, 1), 160)
    sides = int(short / 2) * 2, int(long / 2) * 2
    return sides if rng.random() < 0.7 else sides[::-1]


def render(seed, split="train", each=5):
    """Frames of a seed: `each` of the driving puppet and as many of the reference's, and one of an empty stage."""
    rng = np.random.default_rng([seed, 0x905E])
    size, other = frame_size(rng), frame_size(rng)
    pair = sample_pair(seed, split, size=size, frames=FRAMES, fps=FPS, driving_size=other)
    frames, masks, points, sizes = [], [], [], []
    for actor in (pair.driving, pair.pose):
        keypoints = actor.keypoints()
        for t in sorted(rng.choice(FRAMES, each, replace=False)):
            picture, mask = actor.frame(int(t), grid=2 if max(actor.size) > 320 else 3)
            frames.append(encoded(picture, ".jpg", _JPEG))
            masks.append(encoded(mask, ".png", []))
            points.append(keypoints[t])
            sizes.append(actor.size)
    return {
        "frames": np.concatenate(frames),
        "frame_ends": np.cumsum([len(f) for f in frames]),
        "masks": np.concatenate(masks),
        "mask_ends": np.cumsum([len(m) for m in masks]),
        "keypoints": np.stack(points).astype(np.float32),
        "sizes": np.array(sizes),
        "empty": encoded(pair.driving.backdrop, ".jpg", _JPEG),
    }


def encoded(picture, kind, options):
    if picture.ndim == 3:
        picture = picture[..., ::-1]
    return cv2.imencode(kind, np.ascontiguousarray(picture), options)[1].ravel()


def decoded(data):
    """RGB [H, W, 3] or grey [H, W]."""
    picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    return picture[..., ::-1] if picture.ndim == 3 else picture


class Frames:
    """All rendered frames of a folder, encoded, in memory; and what was made of them once."""

    def __init__(self, folder, limit=None):
        self.items, self.empty, self._kept = [], [], {}
        for path in sorted(Path(folder).glob("*.npz"))[:limit]:
            with np.load(path) as file:
                data = {key: file[key] for key in file.files}
            cut = lambda key: np.split(data[f"{key}s"], data[f"{key}_ends"][:-1])
            self.items += list(zip(cut("frame"), cut("mask"), data["keypoints"]))
            self.empty.append(data["empty"])

    def __len__(self):
        return len(self.items)

    def picture(self, i):
        """(RGB picture [H, W, 3], figure mask [H, W] in 0..255, keypoints [133, 3])."""
        frame, mask, keypoints = self.items[i]
        return decoded(frame), decoded(mask), keypoints

    def backdrop(self, i):
        return self.kept(("backdrop", i % len(self.empty)), lambda: shrunk(decoded(self.empty[i % len(self.empty)]), 240))

    def kept(self, key, make):
        """`make()` once."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


def shrunk(picture, most):
    """The picture with no side above `most` pixels."""
    scale = most / max(picture.shape[:2])
    return picture if scale >= 1 else cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--first", type=int, default=1_000_000)
    parser.add_argument("--count", type=int, default=1500)
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
            np.savez(file, **render(seed, a.split))
        os.replace(part, path)


if __name__ == "__main__":
    main()
