"""Distils the DiT to four steps without guidance, as a LoRA: python -m recipe.distill LATENTS DIT.pt OUT --encoders FILE --minutes 20

The student walks its own four steps, so it learns to mend what it did before. At a random one of them its clean clip is held to the
truth, or to where the teacher gets from there in many small steps. Goes on from OUT/lora.pt if that exists.
"""

import argparse
import csv
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .dit import CONFIG, Dit
from .encoders import load_encoders
from .flow import FEW_STEPS, Encoded, conditions, sample, shifted, stacked
from .muon import Muon
from .train_dit import prompts

SIGMAS = (*FEW_STEPS, 0.0)
RANK = 8


class LoraLinear(nn.Module):
    """A frozen layer with a low-rank change of its weight and a change of its bias; `on` turns both off for the teacher."""

    on = True

    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(RANK, base.in_features).to(base.weight) / base.in_features**0.5)
        self.up = nn.Parameter(base.weight.new_zeros(base.out_features, RANK))
        self.diff_b = nn.Parameter(base.weight.new_zeros(base.out_features))

    def forward(self, x):
        if not LoraLinear.on:
            return self.base(x)
        return F.linear(x, self.base.weight + self.up @ self.down, self.base.bias + self.diff_b)


def add_lora(model):
    """Wraps every linear layer of the blocks; names by which a LoRA's files know them -> layers."""
    model.requires_grad_(False)
    wrapped = {}
    for name, module in list(model.named_modules()):
        if name.startswith("blocks.") and isinstance(module, nn.Linear):
            parent = model.get_submodule(name.rpartition(".")[0])
            wrapped[name] = LoraLinear(module)
            setattr(parent, name.rpartition(".")[2], wrapped[name])
    return wrapped


def lora_state(wrapped):
    """LightX2V's names; no alpha, so the product counts as it is."""
    out = {}
    for name, layer in wrapped.items():
        out[f"diffusion_model.{name}.lora_down.weight"] = layer.down.detach().clone()
        out[f"diffusion_model.{name}.lora_up.weight"] = layer.up.detach().clone()
        out[f"diffusion_model.{name}.diff_b"] = layer.diff_b.detach().clone()
    return out


def load_teacher(path, device="cpu"):
    model = Dit(CONFIG)
    model.load_state_dict({k: v.bfloat16().float() for k, v in torch.load(path, map_location="cpu")["average"].items()})
    return model.eval().to(device)


def loss_of(model, encoders, items, rng, generator, teacher_share):
    device = model.head.modulation.device
    given = conditions(items, device=device)
    text = encoders.text(prompts(items, rng, ()))[0].to(device)
    truth, figure = stacked(items, "truth", device), stacked(items, "figure", device)[:, None]
    x = torch.randn(truth.shape, generator=generator).to(device)
    k = int(rng.choice(4, p=[0.4, 0.25, 0.2, 0.15]))
    with torch.autocast(device.type, torch.bfloat16):
        if k:
            x = sample(model, SIGMAS[: k + 1], x, text, given)
        target = truth
        if rng.random() < teacher_share:
            LoraLinear.on = False
            u = np.linspace(SIGMAS[k] / (5 - 4 * SIGMAS[k]), 0, 6)
            target = sample(model, [float(shifted(v)) for v in u], x, text, given)
            LoraLinear.on = True
        v = model(x, torch.full((len(items),), 1000 * SIGMAS[k], device=device), text, **given)
    clean = x - SIGMAS[k] * v.float()
    error = (clean - target).square().mean(1, keepdim=True)
    weight = 0.5 + 2 * figure
    return (error * weight).mean() / weight.mean(), (error * figure).sum().item() / figure.sum().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("latents", type=Path)
    parser.add_argument("dit", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoders", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--rate", type=float, default=6e-4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--teacher-share", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(a.seed)
    model, encoders = load_teacher(a.dit, a.device), load_encoders(a.encoders)
    wrapped = add_lora(model)
    learned = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimiser = Muon(learned.items(), a.rate, adam=("down", "up", "diff_b"), decay=0.0)
    average = {n: p.detach().clone() for n, p in learned.items()}
    step, spent, path = 0, 0.0, a.out / "lora.pt"
    if path.exists():
        saved = torch.load(path, map_location=a.device)
        model.load_state_dict(saved["learned"], strict=False)
        optimiser.load_state_dict(saved["optimiser"])
        average, step, spent = saved["average"], saved["step"], saved["spent"]
    data = Encoded(a.latents, [a.seed, step, 3])
    rng, generator = np.random.default_rng([a.seed, step, 9]), torch.Generator().manual_seed(a.seed + step)
    log = open(a.out / "lora.csv", "a", newline="")
    rows, last, seen, total = csv.writer(log), time.monotonic(), [], 60 * a.minutes

    def save():
        now = {n: p.detach().clone() for n, p in learned.items()}
        model.load_state_dict(average, strict=False)
        state = lora_state(wrapped)
        model.load_state_dict(now, strict=False)
        torch.save({"lora": state, "learned": now, "average": average, "optimiser": optimiser.state_dict(), "step": step, "spent": spent}, path)

    while spent < total:
        for group in optimiser.param_groups:
            group["lr"] = a.rate * min(1, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * spent / total)))
        loss, figure = loss_of(model, encoders, data.batch(a.batch), rng, generator, a.teacher_share)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned.values(), 1.0)
        optimiser.step()
        step += 1
        keep = min(0.99, step / (step + 10))
        for n, p in learned.items():
            average[n].lerp_(p.detach(), 1 - keep)
        seen.append((loss.item(), figure))
        now = time.monotonic()
        spent, last = spent + now - last, now
        if step % 20 == 0:
            row = [step, round(spent, 1), *(round(float(x), 5) for x in np.mean(seen, 0))]
            rows.writerow(row)
            log.flush()
            print(*row, flush=True)
            seen = []
        if step % 100 == 0:
            save()
    save()


if __name__ == "__main__":
    main()
