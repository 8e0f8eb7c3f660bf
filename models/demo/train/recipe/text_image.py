"""Contrastive training of the text encoder and the vision tower: the network around them, its data and its losses.

What the video model reads are the rows of text tokens and the picture's tokens, not the pooled vectors of CLIP. So beside the
contrastive loss, attributes of the look are read out of both by attention (as the video model does it), and every picture
token must tell its patch's colours and how much of it the figure covers.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .captions import ATTRIBUTES, MOVES, classes, facts, fragment, look_of, move_of, moves_in
from .encoders import TextEncoder, VisionBlock, VisionTower, normalise, token_ids
from .tokenizer import MULTILINGUAL, NEGATIVE

UMT5 = {"dim": 96, "dim_attn": 96, "dim_ffn": 192, "num_buckets": 32, "num_heads": 4, "num_layers": 3, "shared_pos": False}
CLIP = {
    "activation": "gelu", "dim": 96, "eps": 1e-5, "image_size": 112, "mlp_ratio": 2, "num_heads": 4, "num_layers": 5,
    "out_dim": 96, "patch_size": 14,
}  # fmt: skip
SIZES = [len(values) + 1 for values in ATTRIBUTES.values()]
CELLS = 2  # a patch's colours are told on so many cells a side
_ELSEWHERE = [line for line in MULTILINGUAL.strip().split("\n")]


class Readout(nn.Module):
    """One learned query a question, each looking at the tokens by itself; the last one is for the joint space."""

    def __init__(self, dim, questions):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(questions, dim) * dim**-0.5)
        self.norm, self.k, self.v = nn.LayerNorm(dim), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x, valid=None):
        x = self.norm(x)
        scores = self.k(x) @ self.queries.T  # [B, S, Q]
        if valid is not None:
            scores = scores.masked_fill(~valid[..., None], float("-inf"))
        return scores.softmax(1).transpose(1, 2) @ self.v(x)


class Heads(nn.Module):
    """Class scores of every attribute from its own vector."""

    def __init__(self, dim):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(dim, size) for size in SIZES)

    def forward(self, x):
        return [head(x[:, i]) for i, head in enumerate(self.heads)]


class TextImage(nn.Module):
    def __init__(self, vocab):
        super().__init__()
        self.umt5, self.clip = TextEncoder({**UMT5, "vocab": vocab}), VisionTower(CLIP)
        self.last, self.post_norm = VisionBlock(CLIP), nn.LayerNorm(CLIP["dim"], CLIP["eps"])
        text, image, count = UMT5["dim"], CLIP["dim"], len(SIZES)
        self.text_read, self.image_read = Readout(text, count + 2), Readout(image, count)
        self.text_heads, self.image_heads = Heads(text), Heads(image)
        self.move_head = nn.Linear(text, len(MOVES))
        self.text_out, self.image_out = nn.Linear(text, CLIP["out_dim"]), nn.Linear(image, CLIP["out_dim"])
        self.cells = nn.Linear(image, 3 * CELLS**2 + 1)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self._start()

    def _start(self):
        # Rows leave the last norm with a mean square of one: its weight stays.
        self.umt5.norm.weight.requires_grad_(False)
        nn.init.normal_(self.umt5.token_embedding.weight, std=0.5)
        for block in self.umt5.blocks:
            nn.init.normal_(block.attn["q"].weight, std=(96 * 24) ** -0.5)
            nn.init.normal_(block.attn["k"].weight, std=96**-0.5)
            nn.init.normal_(block.pos_embedding["embedding"].weight, std=0.3)
        for parameter in (self.clip.cls_embedding, self.clip.pos_embedding):
            nn.init.normal_(parameter, std=0.05)

    def ask(self, ids, lengths):
        """Answers of the text [B, questions, dim]; short prompts are encoded apart from long ones, to save on padding."""
        order = lengths.argsort()
        answers = []
        for which in order.chunk(2):
            longest = int(lengths[which].max())
            rows = self.umt5(ids[which, :longest], lengths[which])
            answers.append(self.text_read(rows, torch.arange(longest)[None] < lengths[which, None]))
        return torch.cat(answers)[order.argsort()]

    def forward(self, batch):
        asked = self.ask(batch["ids"], batch["lengths"])
        tokens = self.clip(batch["pixels"])
        pooled = self.post_norm(self.last(tokens, 1)[:, 0])
        return {
            "tokens": tokens,
            "text": F.normalize(self.text_out(asked[:, -1]).float(), dim=-1),
            "image": F.normalize(self.image_out(pooled).float(), dim=-1),
            "text_classes": self.text_heads(asked),
            "image_classes": self.image_heads(self.image_read(tokens)),
            "moves": self.move_head(asked[:, -2]),
            "cells": self.cells(tokens[:, 1:]),
        }


def losses(out, batch, scale):
    """{name: loss}, weighted: their sum is minimised. A prompt that also fits another picture of the batch does not push it away."""
    score = out["text"] @ out["image"].T * scale.exp().clamp(max=100)
    said, shown = batch["said"], batch["shown"]
    fits = ((said[:, None] == 0) | (said[:, None] == shown[None])).all(-1)  # [text, image]
    score = score.masked_fill(fits & ~torch.eye(len(fits), dtype=torch.bool), -1e4)
    right = torch.arange(len(score))
    told = said.any(1)  # prompts that say nothing of the look have no picture
    by_text = F.cross_entropy(score[told], right[told]) if told.any() else score.sum() * 0
    by_image = F.cross_entropy(score.T[told], right[told]) if told.any() else score.sum() * 0
    classed = lambda scores, target: sum(F.cross_entropy(s.float(), target[:, i]) for i, s in enumerate(scores)) / len(scores)
    return {
        "contrast": 0.5 * (by_text + by_image),
        "text_attributes": classed(out["text_classes"], said),
        "image_attributes": classed(out["image_classes"], shown),
        "moves": F.binary_cross_entropy_with_logits(out["moves"].float(), batch["moves"]),
        "cells": 8 * F.mse_loss(out["cells"].float(), batch["cells"]),
        "scale": 0.02 * (out["tokens"].float().pow(2).mean(-1).log()).pow(2).mean(),
    }


class Pictures:
    """The shards of `recipe.pictures`, in memory."""

    def __init__(self, folder, split, tokenizer):
        shards = [np.load(path) for path in sorted(Path(folder).glob(f"{split}-*.npz"))]
        if not shards:
            raise FileNotFoundError(f"{folder} has no {split} shards: draw them with recipe.pictures")
        both = lambda name: np.concatenate([shard[name] for shard in shards])
        self.pictures, self.masks = both("pictures"), both("masks")
        self.prompts = [str(prompt) for prompt in both("prompts")]
        self.looks = [look_of(seed, split) for seed in both("seeds")]
        self.moves = [move_of(look, prompt) for look, prompt in zip(self.looks, self.prompts)]
        self.shown = np.stack([classes(facts(look)) for look in self.looks])
        self.tokenizer = tokenizer

    def __len__(self):
        return len(self.prompts)

    def caption(self, rng, i):
        """(prompt, what it says, its moves)."""
        chance = rng.random()
        if chance < 0.45:
            return self.prompts[i], self.shown[i], self.moves[i]
        if chance < 0.92:
            text, said, move = fragment(rng, self.looks[i], self.moves[i])
            return text, classes(said), move
        move = self.moves[i] if chance < 0.94 else ""
        nothing = move or str(rng.choice(["", "", NEGATIVE, NEGATIVE, "A puppet.", *_ELSEWHERE]))
        return nothing, np.zeros_like(self.shown[i]), move

    def batch(self, which, rng=None):
        """Training examples of `rng`; without one, reference pictures as they are, with their whole prompts."""
        if rng is None:
            told = [(self.prompts[i], self.shown[i], self.moves[i]) for i in which]
            frames = np.zeros(len(which), int)
        else:
            told = [self.caption(rng, i) for i in which]
            frames = (rng.random(len(which)) < 0.5).astype(int)
        texts, said, moves = zip(*told)
        ids, lengths = token_ids(self.tokenizer, texts)
        pixels = torch.from_numpy(self.pictures[which, frames]).permute(0, 3, 1, 2).float()
        masks = torch.from_numpy(self.masks[which, frames])[:, None].float()
        both = torch.cat([pixels, masks], 1)
        if rng is not None:
            both = _moved(both, rng)
        pixels = both[:, :3]
        p = CLIP["patch_size"]
        cells = F.avg_pool2d(pixels / 255, p // CELLS)  # [B, 3, g·CELLS, g·CELLS]
        cells = F.pixel_unshuffle(cells, CELLS).flatten(2).transpose(1, 2)
        share = F.avg_pool2d(both[:, 3:] / 255, p).flatten(2).transpose(1, 2)
        return {
            "ids": ids,
            "lengths": lengths,
            "pixels": normalise(pixels),
            "cells": torch.cat([cells, share], -1),
            "said": torch.from_numpy(np.stack(said)),
            "shown": torch.from_numpy(self.shown[which]),
            "moves": torch.from_numpy(np.stack([moves_in(move) for move in moves])),
        }


def _moved(pixels, rng):
    """Flipped or not, and a window of at least 88 % of the sides; colours stay, since prompts name them."""
    count = len(pixels)
    zoom = torch.from_numpy(rng.uniform(0.88, 1.0, (count, 2))).float()
    shift = torch.from_numpy(rng.uniform(-1, 1, (count, 2))).float() * (1 - zoom)
    flip = torch.from_numpy(rng.choice([-1.0, 1.0], count)).float()
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = zoom[:, 0] * flip, zoom[:, 1], shift
    grid = F.affine_grid(theta, pixels.shape, align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
