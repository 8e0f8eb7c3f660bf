"""Muon for matrices and convolution kernels, AdamW for everything else, as one optimiser.

Muon: the momentum of a matrix is brought near to an orthogonal one by a Newton-Schulz iteration (Jordan et al. 2024), with steps scaled
to the size that AdamW's have (Liu et al. 2025), so that one rate serves both.
"""

import torch


def orthogonal(g, steps=5):
    """The nearest semi-orthogonal matrix of `g` [rows, columns], roughly (singular values 0.7 to 1.2)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    turned = x.shape[0] > x.shape[1]
    x = x.T if turned else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return (x.T if turned else x).float()


class Muon(torch.optim.Optimizer):
    def __init__(self, named, rate, momentum=0.95, betas=(0.9, 0.98), decay=0.01, adam=("head", "patch_embedding", "modulation")):
        matrices, others = [], []
        for name, p in named:
            small = p.dim() < 2 or min(p.shape[0], p[0].numel()) < 8 or any(word in name for word in adam)
            (others if small else matrices).append(p)
        options = {"lr": rate, "momentum": momentum, "betas": betas, "decay": decay}
        super().__init__([{"params": matrices, "muon": True}, {"params": others, "muon": False}], options)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if group["muon"]:
                    m = state.setdefault("momentum", torch.zeros_like(p))
                    m.lerp_(p.grad, 1 - group["momentum"])
                    flat = p.grad.lerp(m, group["momentum"]).flatten(1)
                    update = orthogonal(flat).view(p.shape) * 0.2 * max(flat.shape) ** 0.5
                else:
                    m, v = (state.setdefault(k, torch.zeros_like(p)) for k in ("mean", "square"))
                    n = state["count"] = state.get("count", 0) + 1
                    b1, b2 = group["betas"]
                    m.lerp_(p.grad, 1 - b1)
                    v.lerp_(p.grad.square(), 1 - b2)
                    update = (m / (1 - b1**n)) / ((v / (1 - b2**n)).sqrt() + 1e-8)
                p.mul_(1 - group["lr"] * group["decay"]).add_(update, alpha=-group["lr"])
