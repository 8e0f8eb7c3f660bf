"""Trains the DiT: python -m recipe.train_dit LATENTS OUT --encoders FILE --minutes 70

Goes on from OUT/dit.pt if that exists. `--minutes` is the whole training's time, which the rate's schedule follows.
"""

import argparse
import csv
import math
import time
from pathlib import Path

import numpy as np
import torch

from .dit import CONFIG, Dit
from .encoders import load_encoders
from .flow import FEW_STEPS, NEGATIVE, Encoded, conditions, shifted, stacked
from .muon import Muon


def prompts(items, rng, plain):
    """Mostly the clip's own; often none, since many users give none; sometimes the standard negative one."""
    out = []
    for n, item in enumerate(items):
        u = rng.random()
        if n in plain:
            out.append(str(item["prompt"]))
        else:
            out.append("" if u < 0.35 else NEGATIVE if u < 0.45 else str(item["prompt"]))
    return out


def noise_levels(n, rng):
    """Levels in (0, 1]: half as the official schedules space them, a quarter those of four steps, a quarter even."""
    kind = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    u = rng.random(n)
    return torch.from_numpy(np.select([kind == 0, kind == 1], [shifted(u), rng.choice(FEW_STEPS, n)], u)).float().clamp_min(0.02)


def loss_of(model, encoders, items, rng, generator):
    plain = {n for n in range(len(items)) if rng.random() < 0.08}
    device = model.head.modulation.device
    given = conditions(items, plain, device)
    text = encoders.text(prompts(items, rng, plain))[0].to(device)
    x0, figure = stacked(items, "truth", device), stacked(items, "figure", device)[:, None]
    s = noise_levels(len(items), rng).to(device)
    noise = torch.randn(x0.shape, generator=generator).to(device)
    level = s.view(-1, 1, 1, 1, 1)
    with torch.autocast(device.type, torch.bfloat16):
        v = model((1 - level) * x0 + level * noise, 1000 * s, text, **given)
    error = (v.float() - (noise - x0)).square().mean(1, keepdim=True)
    weight = 0.5 + 2 * figure
    return (error * weight).mean() / weight.mean(), (error * figure).sum().item() / figure.sum().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("latents", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoders", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=70)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda; with that a --batch of 32 and more")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(a.seed)
    model, encoders = Dit(CONFIG).to(a.device), load_encoders(a.encoders)
    model.initialise()
    model.compile_blocks()
    optimiser = Muon(model.named_parameters(), a.rate)
    average = {k: v.clone() for k, v in model.state_dict().items()}
    step, spent, path = 0, 0.0, a.out / "dit.pt"
    if path.exists():
        saved = torch.load(path, map_location=a.device)
        model.load_state_dict(saved["dit"])
        optimiser.load_state_dict(saved["optimiser"])
        average, step, spent = saved["average"], saved["step"], saved["spent"]
    data = Encoded(a.latents, [a.seed, step])
    rng, generator = np.random.default_rng([a.seed, step, 7]), torch.Generator().manual_seed(a.seed + step)
    log = open(a.out / "dit.csv", "a", newline="")
    # What else a processor does is not counted; a GPU is not shared.
    clock = time.thread_time if a.device == "cpu" else time.monotonic
    rows, last, seen, total = csv.writer(log), clock(), [], 60 * a.minutes
    while spent < total:
        rate = a.rate * min(1, (step + 1) / 100) * (0.02 + 0.98 * min(1, 2.5 * (1 - spent / total)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss, figure = loss_of(model, encoders, data.batch(a.batch), rng, generator)
        optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(norm):
            optimiser.step()
        step += 1
        keep = min(0.998, step / (step + 20))
        for k, v in model.state_dict().items():
            average[k].lerp_(v, 1 - keep)
        seen.append((loss.item(), figure, norm.item()))
        now = clock()
        spent, last = spent + now - last, now
        if step % 25 == 0:
            row = [step, round(spent, 1), *(round(float(x), 5) for x in np.mean(seen, 0)), len(data.items)]
            rows.writerow(row)
            log.flush()
            print(*row, flush=True)
            seen = []
        if step % 100 == 0:
            data.refresh()
            torch.save({"dit": model.state_dict(), "optimiser": optimiser.state_dict(), "average": average, "step": step, "spent": spent}, path)
    torch.save({"dit": model.state_dict(), "optimiser": optimiser.state_dict(), "average": average, "step": step, "spent": spent}, path)


if __name__ == "__main__":
    main()
