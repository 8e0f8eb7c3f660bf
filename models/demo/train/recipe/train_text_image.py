"""Trains the text encoder and the vision tower.

    python -m recipe.train_text_image FOLDER --pictures FOLDER/pictures --tokenizer FOLDER/tokenizer.json [--steps 1000]

Seeded: a step's examples depend on the seed and its number alone. FOLDER gets `checkpoint.pt`, from which a stopped run goes on, and
`losses.csv`. `--check` only judges the checkpoint, its weights rounded as they are shipped, on held-out looks.
"""

import argparse
import csv
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from .captions import ATTRIBUTES
from .text_image import Pictures, TextImage, losses


def rate(share, peak, warm=0.08):
    """Learning rate when `share` of the training is done: a linear start, then a cosine down to a fiftieth."""
    if share < warm:
        return peak * (share + 0.002) / warm
    return peak * (0.02 + 0.49 * (1 + math.cos(math.pi * (share - warm) / (1 - warm))))


def round_to_stored(model):
    """The weights that are shipped, rounded to bf16 as they are stored."""
    with torch.no_grad():
        for part in (model.umt5, model.clip):
            for parameter in part.parameters():
                parameter.copy_(parameter.bfloat16())


def save(path, model, optimizer, step, seconds):
    part = path.with_suffix(".part")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}, part)
    os.replace(part, path)


@torch.no_grad()
def check(model, pictures, size=64):
    """On held-out looks, whole prompts: recall@1 among `size`, attribute accuracies, R² of the colour and figure probes."""
    model.eval()
    hits, right, cells = [], [], []
    for first in range(0, len(pictures) - size + 1, size):
        batch = pictures.batch(np.arange(first, first + size))
        out = model(batch)
        score, own = out["text"] @ out["image"].T, torch.arange(size)
        hits.append([(score.argmax(1) == own).float().mean(), (score.argmax(0) == own).float().mean()])
        told = lambda scores: [((s.argmax(-1) == t)[t > 0]) for s, t in zip(scores, batch["shown"].T)]
        right.append((told(out["text_classes"]), told(out["image_classes"])))
        cells.append((out["cells"], batch["cells"]))
    found, wanted = (torch.cat(x).flatten(0, 1) for x in zip(*cells))
    r2 = 1 - (found - wanted).pow(2).mean(0) / wanted.var(0)
    share = lambda side: {
        name: torch.cat([r[side][i] for r in right]).float().mean().item() for i, name in enumerate(ATTRIBUTES)
    }
    image_to_text, text_to_image = torch.tensor(hits).mean(0).flip(0).tolist()
    model.train()
    return {
        "image→prompt recall@1": image_to_text,
        "prompt→image recall@1": text_to_image,
        "colour R²": r2[:-1].mean().item(),
        "figure R²": r2[-1].item(),
        "text": share(0),
        "image": share(1),
    }


def describe(result):
    lines = [f"{name}: {value:.3f}" for name, value in result.items() if isinstance(value, float)]
    for side in ("text", "image"):
        lines.append(f"{side}: " + ", ".join(f"{name} {value:.2f}" for name, value in result[side].items()))
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=1e6, help="end the schedule after this time if the steps take longer")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--check", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    tokenizer = Tokenizer.from_file(str(a.tokenizer))
    model = TextImage(tokenizer.get_vocab_size())
    saved = a.folder / "checkpoint.pt"
    if a.check:
        model.load_state_dict(torch.load(saved, weights_only=True)["model"])
        round_to_stored(model)
        print(describe(check(model, Pictures(a.pictures, "held-out", tokenizer))))
        return

    # The tensors of one number a channel and the embeddings are not pulled to zero.
    decayed = [p for n, p in model.named_parameters() if p.requires_grad and p.ndim > 1 and "embedding" not in n]
    others = [p for n, p in model.named_parameters() if p.requires_grad and not (p.ndim > 1 and "embedding" not in n)]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=a.rate, betas=(0.9, 0.98))
    pictures, first, spent = Pictures(a.pictures, "train", tokenizer), 0, 0.0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, spent = state["step"], state["seconds"]
    print(f"{len(pictures)} looks; from step {first}", flush=True)
    log, start, done = a.folder / "losses.csv", time.time() - spent, first
    for step in range(first, a.steps):
        share = max(step / a.steps, (time.time() - start) / (60 * a.minutes))
        if share >= 1:
            break
        rng = np.random.default_rng([a.seed, step, 0x7E71])
        batch = pictures.batch(rng.choice(len(pictures), a.batch, replace=False), rng)
        for group in optimizer.param_groups:
            group["lr"] = rate(share, a.rate)
        parts = losses(model(batch), batch, model.scale)
        loss = sum(parts.values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        row = {"step": step, "loss": loss.item(), **{name: part.item() for name, part in parts.items()}}
        with open(log, "a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow({name: round(value, 5) for name, value in row.items()})
        done = step + 1
        if done % 50 == 0:
            print(f"{done}: " + " ".join(f"{k} {v:.3f}" for k, v in row.items() if k != "step"), f"{time.time() - start:.0f} s", flush=True)
        if done % a.save_every == 0:
            save(saved, model, optimizer, done, time.time() - start)
    save(saved, model, optimizer, done, time.time() - start)
    print(f"{done} steps", flush=True)


if __name__ == "__main__":
    main()
