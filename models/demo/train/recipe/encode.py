"""Clips to latents, once: python -m recipe.encode CLIPS OUT VAE.pt [--limit 1500] [--plain-share 0.25] [--encoders FILE]

For each clip an `.npz` of float16: `truth`, `pose` [16, F, h, w] normalised; `y` of the reference and, for a share of the clips, of the reference
without its colours; CLIP rows of these and of the first pose; the figure's share of each latent pixel. Existing ones are kept.
"""

import argparse
import os
from pathlib import Path

import cv2
import numpy as np
import torch

from puppets.alignment import align

from .clips import clips
from .drawn import pose_frames
from .encoders import load_encoders
from .vae import load_vae


def to_tensor(frames):
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def without_colour(picture):
    return np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)


def seen_pose(clip, rng):
    """The driven pose as users have it: exact, or by the published alignment; a little wrong, as estimators are."""
    height, width = clip["truth"].shape[1:3]
    k = clip["pose"].astype(np.float64)
    if rng.random() < 0.5:
        k = align(clip["driving"].astype(np.float64), clip["driving_size"], clip["reference"].astype(np.float64), (width, height))
    noise = rng.normal(0, rng.choice([0, 0.003, 0.006]) * height, (*k.shape[:2], 2))
    k[..., :2] += noise
    return k


@torch.no_grad()
def encode_clip(clip, vae, encoders, rng, plain_share):
    truth = clip["truth"]
    size = truth.shape[2], truth.shape[1]
    drawn = pose_frames(seen_pose(clip, rng), size)
    reference = truth[0]
    references = {"": reference}
    if rng.random() < plain_share:
        references["_plain"] = without_colour(reference)

    def latents(frames):
        with torch.autocast("cpu", torch.bfloat16):
            mean, _ = vae.encode(to_tensor(frames))
        return vae.normalise(mean.float())[0].half().numpy()

    out = {"truth": latents(truth), "pose": latents(drawn)}
    for suffix, picture in references.items():
        video = np.full(truth.shape, 127.5, np.float32)
        video[0] = picture
        out["y" + suffix] = latents(video)
    pictures = {"image" + suffix: picture for suffix, picture in references.items()} | {"pose_image": drawn[0]}
    for name, picture in pictures.items():
        out[name] = encoders.image(picture[None])[0].half().numpy()
    mask = torch.from_numpy(clip["mask"]).float() / 255
    frames = [mask[:1], *(mask[t : t + 4] for t in range(1, len(mask), 4))]
    share = torch.stack([f.amax(0) for f in frames])
    out["figure"] = torch.nn.functional.avg_pool2d(share[None], 8)[0].half().numpy()
    out["prompt"] = clip["prompt"]
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("vae", type=Path)
    parser.add_argument("--encoders", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=10**9)
    parser.add_argument("--plain-share", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    cv2.setNumThreads(1)
    a.out.mkdir(parents=True, exist_ok=True)
    vae, encoders = load_vae(a.vae), load_encoders(a.encoders)
    for path in clips(a.clips)[: a.limit]:
        target = a.out / path.name
        if target.exists():
            continue
        with np.load(path) as data:
            clip = dict(data)
        out = encode_clip(clip, vae, encoders, np.random.default_rng([int(clip["seed"]), 0xE2C]), a.plain_share)
        part = target.with_suffix(".part")
        with open(part, "wb") as file:
            np.savez(file, **out)
        os.replace(part, target)


if __name__ == "__main__":
    main()
