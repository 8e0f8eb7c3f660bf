"""The spread of the latents, without which they are not normalised: python -m recipe.measure_vae CLIPS VAE.pt OUT.pt [--count 120]

Also prints what the VAE keeps of held-out clips: python -m recipe.measure_vae HELD_OUT VAE.pt --check
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch

from .clips import clips
from .drawn import pose_frames
from .encode import to_tensor
from .vae import load_vae


def db(error):
    return 10 * math.log10(255**2 / error)


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("vae", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--check", action="store_true")
    a = parser.parse_args()
    vae = load_vae(a.vae)
    files = clips(a.clips)
    files = files[:: max(1, len(files) // a.count)]
    if a.check:
        rows = []
        for path in files:
            with np.load(path) as data:
                truth, mask, pose = data["truth"], data["mask"] >= 128, data["pose"]
            row = []
            for frames, where in ((truth, None), (truth, mask), (truth[:1], None), (pose_frames(pose, truth.shape[2:0:-1]), None)):
                with torch.autocast("cpu", torch.bfloat16):
                    out = vae.decode(vae.encode(to_tensor(frames))[0]).float()
                out = ((out[0].permute(1, 2, 3, 0).clamp(-1, 1) + 1) * 127.5).numpy()
                error = (out - frames.astype(np.float32)) ** 2
                row.append(db((error if where is None else error[where]).mean()))
            rows.append(row)
        print("PSNR of clips, of their figures, of first frames, of drawn poses:", np.round(np.mean(rows, 0), 2))
        return
    total, square, count = 0, 0, 0
    for path in files:
        with np.load(path) as data:
            truth = data["truth"]
        mean = vae.encode(to_tensor(truth))[0][0].flatten(1).double()
        total, square, count = total + mean.sum(1), square + mean.square().sum(1), count + mean.shape[1]
    mean = total / count
    std = (square / count - mean.square()).sqrt()
    # As the program reads them.
    rounded = {"mean": mean.float().mul(1e4).round() / 1e4, "std": std.float().mul(1e4).round() / 1e4}
    saved = torch.load(a.vae)
    torch.save({"average": saved["average"], "step": saved["step"]} | rounded, a.out)
    print("mean", rounded["mean"].tolist(), "std", rounded["std"].tolist())


if __name__ == "__main__":
    main()
