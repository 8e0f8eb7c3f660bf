"""Trains one pose network; stopped runs go on where they were.

    python -m recipe.train_pose pose estimator --data FOLDER --out RUN --steps 2500 --seed 1

RUN gets `state.pt` (to go on), `curve.csv` (step, samples, loss, seconds) and `<network>.safetensors` (averaged weights).
"""

import argparse
import copy
import csv
import math
import os
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from . import pose_batches, pose_nets
from .pose_data import Frames


def rate(step, steps, top):
    warm = min(1.0, (step + 1) / 100)
    return top * warm * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * step / steps)))


class Task:
    """One network with its batches and its loss."""

    def __init__(self, pair, network, frames):
        config = pose_nets.PAIRS[pair]
        self.sizes, self.wear, self.frames, self.network = config[network], config["wear"], frames, network
        if network == "detector":
            self.net = pose_nets.detector(**self.sizes)
            self.at = pose_nets.places(self.sizes["side"])
        else:
            self.net = pose_nets.estimator(**self.sizes)
            self.each = pose_nets.weights()
            self.maps = pose_nets.Maps(self.sizes["width"])

    def loss(self, rng, count):
        if self.network == "detector":
            pictures, truth = pose_batches.squares(rng, self.frames, count, self.sizes["side"], self.wear)
        else:
            pictures, truth = pose_batches.crops(rng, self.frames, count, self.sizes["crop"], self.wear)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if self.network == "detector":
                outputs = self.net(pictures)
            else:
                features = self.net.backbone(pictures)
                outputs = self.net.head(features[-1])
                helped = self.maps.loss(features[-2:], truth, self.each)
        if self.network == "detector":
            loss = pose_nets.detector_loss(outputs.float(), truth, self.at)
            return loss, loss
        loss = pose_nets.estimator_loss(outputs, truth, self.each)
        return loss + helped, loss

    def modules(self):
        """What is trained; the last one is kept."""
        helpers = [self.maps] if self.network == "estimator" else []
        return torch.nn.ModuleList([*helpers, self.net])

    def save(self, net, path):
        pose_nets.save(net, path, self.sizes.get("side"))


def train(task, out, a):
    out.mkdir(parents=True, exist_ok=True)
    net = task.modules().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), lr=a.rate, weight_decay=0.02, betas=(0.9, 0.99), fused=True)
    average, step, seconds = copy.deepcopy(net).eval(), 0, 0.0
    if (out / "state.pt").exists():
        state = torch.load(out / "state.pt")
        net.load_state_dict(state["net"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        step, seconds = state["step"], state["seconds"]
    losses, start = [], time.time() - seconds
    while step < a.steps:
        rng = np.random.default_rng([a.seed, step])
        for group in optimiser.param_groups:
            group["lr"] = rate(step, a.steps, a.rate)
        loss, shown = task.loss(rng, a.batch)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        losses.append(float(shown.detach()))
        step += 1
        keep = min(0.995, 1 - 10 / (step + 10))
        with torch.no_grad():
            for old, new in zip(average.state_dict().values(), net.state_dict().values()):
                if old.dtype.is_floating_point:
                    old.lerp_(new, 1 - keep)
                else:
                    old.copy_(new)
        if step % 50 == 0 or step == a.steps:
            seconds = time.time() - start
            with open(out / "curve.csv", "a", newline="") as file:
                csv.writer(file).writerow([step, step * a.batch, f"{np.mean(losses):.5f}", f"{seconds:.0f}"])
            losses = []
        if step % 250 == 0 or step == a.steps:
            keys = {"net": net.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save({**keys, "step": step, "seconds": seconds}, out / "state.part")
            os.replace(out / "state.part", out / "state.pt")
            task.save(average[-1], out / f"{task.network}.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pair", choices=pose_nets.PAIRS)
    parser.add_argument("network", choices=("detector", "estimator"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    train(Task(a.pair, a.network, Frames(a.data)), a.out, a)


if __name__ == "__main__":
    main()
