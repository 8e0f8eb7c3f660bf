"""Trains the VAE: python -m recipe.train_vae CLIPS OUT --minutes 18 90 12

Three stages: crops of single frames and drawn poses, of clips, whole frames. Goes on from OUT/vae.pt if that exists.
"""

import argparse
import csv
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .clips import clips
from .drawn import pose_frames
from .muon import Muon
from .vae import CONFIG, Vae


class Batches:
    """Random crops [B, 3, T, S, S'] in [-1, 1] of truths and, every third, of drawn poses, out of a pool of clips that is renewed
    bit by bit: reading a clip is dearer than cropping it.
    """

    def __init__(self, folder, seed, pool=200):
        self.folder, self.rng, self.size, self.pool, self.used = folder, np.random.default_rng(seed), pool, [], 0

    def clip(self):
        if len(self.pool) < min(32, self.size) or self.used % 16 == 0:
            files = clips(self.folder)
            with np.load(files[self.rng.integers(len(files))]) as data:
                truth, pose, mask = data["truth"], data["pose"], data["mask"]
            size = truth.shape[2], truth.shape[1]
            drawn = pose_frames(pose[::4] if len(self.pool) % 2 else pose[:9], size, area=self.rng.uniform(0.7, 1.6) * 65536)
            self.pool.append((truth, drawn, mask.max(0)))
            self.pool = self.pool[-self.size :]
        self.used += 1
        return self.pool[self.rng.integers(len(self.pool))]

    def sample(self, frames, height, width):
        truth, pose, mask = self.clip()
        rng = self.rng
        drawn = rng.random() < 0.25 and len(pose) >= frames
        video = pose if drawn else truth
        t = rng.integers(len(video) - frames + 1)
        h, w = video.shape[1:3]
        height, width = min(height, h), min(width, w)
        # Most crops show the figure.
        ys, xs = np.nonzero(mask)
        if len(ys) and rng.random() < 0.8:
            i = rng.integers(len(ys))
            y = int(np.clip(ys[i] - rng.integers(height), 0, h - height))
            x = int(np.clip(xs[i] - rng.integers(width), 0, w - width))
        else:
            y, x = rng.integers(h - height + 1), rng.integers(w - width + 1)
        crop = video[t : t + frames, y : y + height, x : x + width]
        if rng.random() < 0.08:  # grey frames after a picture are what the model's image condition is made of
            crop = crop.copy()
            crop[int(frames > 1) :] = 128
        if not drawn and rng.random() < 0.5:
            crop = crop[:, :, ::-1]
        return torch.from_numpy(np.ascontiguousarray(crop)).permute(3, 0, 1, 2).float() / 127.5 - 1

    def __call__(self, n, *shape):
        out = []
        while len(out) < n:
            x = self.sample(*shape)
            if not out or x.shape == out[0].shape:
                out.append(x)
        return torch.stack(out)


# Each stage's batches: clips, frames, height, width, one or several in turn.
STAGES = (
    [(16, 1, 64, 64)],
    [(4, 5, 64, 64), (2, 9, 64, 64)],
    [(1, 5, 256, 256), (1, 9, 256, 256)],
)


def loss_of(vae, x, generator):
    mean, logvar = vae.encode(x)
    mean = mean.float()
    # The decoder must bear what the diffusion model leaves: noise of 4 % of each channel's spread. The variance that the encoder
    # also gives is used by nobody; it is held near that.
    spread = mean.detach().std((0, 2, 3, 4), keepdim=True)
    y = vae.decode(mean + 0.04 * spread * torch.randn(mean.shape, generator=generator)).float()
    # What moves is the small part that matters: it counts up to ninefold.
    moved = (x - x.mean(2, keepdim=True)).abs().mean(1, keepdim=True)
    weight = 1 + 8 * moved.clamp_max(1)
    weight = weight / weight.mean()
    l1 = ((y - x).abs() * weight).mean()
    away = y - x
    edges = sum((away.diff(dim=d).abs() * weight.narrow(d, 1, weight.shape[d] - 1)).mean() for d in (3, 4))
    moving = (y.diff(dim=2) - x.diff(dim=2)).abs().mean() if x.shape[2] > 1 else 0.0
    size = mean.square().mean()
    held = 1e-4 * (logvar.float() + 6).square().mean() + 1e-3 * (size - 1).clamp_min(0)
    return l1 + 0.5 * edges + 0.3 * moving + held, (y - x).square().mean().item(), size.item()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, nargs=3, default=(18, 90, 12), help="of each stage")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(a.seed)
    vae = Vae(CONFIG)
    for p in vae.parameters():
        if p.dim() == 5:
            p.data = p.data.contiguous(memory_format=torch.channels_last_3d)
    average = {k: v.clone() for k, v in vae.state_dict().items()}
    optimiser = Muon(vae.named_parameters(), a.rate, adam=("head", "encoder.conv1", "decoder.conv1"))
    step, spent, path = 0, 0.0, a.out / "vae.pt"
    if path.exists():
        saved = torch.load(path)
        vae.load_state_dict(saved["vae"])
        optimiser.load_state_dict(saved["optimiser"])
        average, step, spent = saved["average"], saved["step"], saved["spent"]
    batches, generator = Batches(a.clips, [a.seed, step]), torch.Generator().manual_seed(a.seed + step)
    ends = 60 * np.cumsum(a.minutes)
    total, log = ends[-1], open(a.out / "vae.csv", "a", newline="")
    rows, last, seen = csv.writer(log), time.monotonic(), []

    def save():
        torch.save({"vae": vae.state_dict(), "optimiser": optimiser.state_dict(), "average": average, "step": step, "spent": spent}, path)

    while spent < total:
        done = spent / total
        for group in optimiser.param_groups:
            group["lr"] = a.rate * min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        turn = STAGES[min(int(np.searchsorted(ends, spent)), 2)]
        x = batches(*turn[step % len(turn)])
        x = x.to(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", torch.bfloat16):
            loss, mse, size = loss_of(vae, x, generator)
        optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        if torch.isfinite(norm):
            optimiser.step()
        step += 1
        keep = min(0.995, step / (step + 20))
        for k, v in vae.state_dict().items():
            average[k].lerp_(v, 1 - keep)
        seen.append((loss.item(), mse, size))
        now = time.monotonic()
        spent, last = spent + now - last, now
        if step % 50 == 0:
            mean = np.mean(seen, 0)
            row = [step, round(spent, 1), *(round(float(v), 5) for v in mean), round(10 * math.log10(4 / mean[1]), 2)]
            rows.writerow(row)
            log.flush()
            print(*row, flush=True)
            seen = []
        if step % 200 == 0:
            save()
    save()


if __name__ == "__main__":
    main()
