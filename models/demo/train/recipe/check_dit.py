"""What a DiT makes of held-out clips: python -m recipe.check_dit HELD_OUT_CLIPS HELD_OUT_LATENTS VAE.pt DIT.pt --encoders FILE [--sheet OUT.png]

Four Euler steps without guidance; PSNR on the figures' pixels beside repeating the reference and what the VAE allows.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from .distill import SIGMAS, add_lora, load_teacher
from .encoders import load_encoders
from .flow import conditions, sample
from .measure_vae import db
from .vae import load_vae


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("latents", type=Path)
    parser.add_argument("vae", type=Path)
    parser.add_argument("dit", type=Path)
    parser.add_argument("--encoders", type=Path, required=True)
    parser.add_argument("--lora", type=Path)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    vae, model, encoders = load_vae(a.vae), load_teacher(a.dit), load_encoders(a.encoders)
    if a.lora:
        add_lora(model)
        model.load_state_dict(torch.load(a.lora, map_location="cpu")["average"], strict=False)
    rows, sheet = [], []
    for path in sorted(a.latents.glob("*.npz"))[: a.count]:
        with np.load(path) as data:
            item = dict(data)
        with np.load(a.clips / path.name) as data:
            truth, mask = data["truth"], data["mask"] >= 128
        text, _ = encoders.text([""])
        noise = torch.randn((1, *item["truth"].shape), generator=torch.Generator().manual_seed(7))
        with torch.autocast("cpu", torch.bfloat16):
            latents = sample(model, SIGMAS, noise, text, conditions([item])).float()
            show = lambda x: ((vae.decode(vae.denormalise(x))[0].float().permute(1, 2, 3, 0).clamp(-1, 1) + 1) * 127.5).numpy()
            made, best = show(latents), show(torch.from_numpy(item["truth"])[None].float())
        on_figure = lambda frames: db(((frames - truth.astype(np.float32)) ** 2)[mask].mean())
        rows.append([on_figure(np.repeat(truth[:1], len(truth), 0)), on_figure(made), on_figure(best), db(((made - truth) ** 2).mean())])
        pad = lambda x: cv2.copyMakeBorder(x.astype(np.uint8), 0, 224 - x.shape[0], 0, 224 - x.shape[1], cv2.BORDER_CONSTANT)
        sheet.append(np.hstack([pad(truth[0])] + [pad(x[t]) for t in (4, 10, 16) for x in (truth, made)]))
    print("PSNR on figures: reference repeated, made, VAE's own; whole pictures made:", np.round(np.mean(rows, 0), 2))
    if a.sheet:
        cv2.imwrite(str(a.sheet), np.vstack(sheet)[..., ::-1])


if __name__ == "__main__":
    main()
