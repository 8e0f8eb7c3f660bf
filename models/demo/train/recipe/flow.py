"""Rectified flow: x_s = (1 - s)·x0 + s·noise, velocity = noise - x0, timestep 1000·s; batches of encoded clips; sampling."""

from pathlib import Path

import numpy as np
import torch

NEGATIVE = (
    "镜头晃动，色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，"
    "手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
# The 4-step schedules' noise levels at shift 5, plain and pre-shifted.
FEW_STEPS = (1.0, 0.9375, 0.8333, 0.625)


def shifted(u, shift=5.0):
    return shift * u / (1 + (shift - 1) * u)


def stacked(items, name, device="cpu", plain=()):
    """What encoded clips have under a name, f32 on a device; those in `plain` as it is of a reference without its colours."""
    rows = [i[name + "_plain"] if n in plain and name + "_plain" in i else i[name] for n, i in enumerate(items)]
    return torch.from_numpy(np.stack(rows)).to(device).float()


def conditions(items, plain=(), device="cpu"):
    """Encoded clips -> what the network takes beside latents, time and text; those in `plain` lose their reference's colours."""
    stack = lambda name: stacked(items, name, device, plain)
    y, pose = stack("y"), stack("pose")
    mask = torch.zeros_like(y[:, :4])
    mask[:, :, 0] = 1
    first = y[:, :, :1]
    return {
        "y": torch.cat([mask, y], 1),
        "pose": pose,
        "ref": torch.cat([first, torch.ones_like(first[:, :4]), first], 1),
        "pose_ref": pose[:, :, :1],
        "image": stack("image"),
        "pose_image": stack("pose_image"),
    }


class Encoded:
    """Encoded clips by shape, renewed as more appear in the folder."""

    def __init__(self, folder, seed):
        self.folder, self.rng, self.items = Path(folder), np.random.default_rng(seed), {}
        self.refresh()

    def refresh(self):
        for path in sorted(self.folder.glob("*.npz")):
            if path.name not in self.items:
                with np.load(path) as data:
                    self.items[path.name] = dict(data)
        self.groups = {}
        for item in self.items.values():
            self.groups.setdefault(item["truth"].shape, []).append(item)

    def batch(self, n):
        """`n` clips of one shape if they have 17 frames; of longer ones as many as take about the same time."""
        groups = list(self.groups.values())
        weights = np.array([len(g) for g in groups], float)
        group = groups[self.rng.choice(len(groups), p=weights / weights.sum())]
        frames = group[0]["truth"].shape[1]
        return [group[i] for i in self.rng.integers(len(group), size=max(1, round(n * 6 / (frames + 1))))]


@torch.no_grad()
def sample(model, sigmas, noise, text, given):
    """Euler's steps along `sigmas` (the last one 0) from `noise` [B, 16, T, h, w]."""
    x = noise
    for a, b in zip(sigmas[:-1], sigmas[1:]):
        v = model(x, torch.full((len(x),), 1000 * a, device=x.device), text, **given)
        x = x + (b - a) * v
    return x
