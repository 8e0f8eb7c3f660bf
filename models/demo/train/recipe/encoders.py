"""The demo model's text encoder (UMT5) and vision tower (CLIP), with the tensor names of Wan's checkpoints.

    encoders = load_encoders("model.pt")
    rows, lengths = encoders.text(["A puppet in a red shirt."])     # [B, 64, dim], [B]: rows past the length are zero
    tokens = encoders.image(frames)                                 # u8 [B, H, W, 3] → [B, 1 + patches, dim]

What comes out is what the engine computes from the shipped files, in f32.
"""

import html
import math
import re
from dataclasses import dataclass

import ftfy
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

TEXT_LEN, MAX_DISTANCE, END = 64, 128, 1
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def _heads(x, count):
    return x.unflatten(-1, (count, -1)).transpose(-2, -3)


def _merge(x):
    return x.transpose(-2, -3).flatten(-2)


# ---- text -----------------------------------------------------------------------------------------------------------


def position_buckets(tokens, count):
    """[query, key] bucket of the distance key − query: T5's, for both directions."""
    relative = torch.arange(tokens)[None] - torch.arange(tokens)[:, None]
    half, exact = count // 2, count // 4
    distance = relative.abs()
    far = exact + (distance.clamp(min=1) / exact).log().div(math.log(MAX_DISTANCE / exact)).mul(half - exact).add(1e-6).long()
    return torch.where(distance < exact, distance, far.clamp(max=half - 1)) + half * (relative > 0)


class TextBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        line = lambda a, b: nn.Linear(a, b, bias=False)
        dim, attn = c["dim"], c["dim_attn"]
        self.heads = c["num_heads"]
        self.norm1, self.norm2 = nn.RMSNorm(dim, 1e-6), nn.RMSNorm(dim, 1e-6)
        self.attn = nn.ModuleDict({"q": line(dim, attn), "k": line(dim, attn), "v": line(dim, attn), "o": line(attn, dim)})
        self.pos_embedding = nn.ModuleDict({"embedding": nn.Embedding(c["num_buckets"], c["num_heads"])})
        gate = nn.Sequential(line(dim, c["dim_ffn"]))
        self.ffn = nn.ModuleDict({"gate": gate, "fc1": line(dim, c["dim_ffn"]), "fc2": line(c["dim_ffn"], dim)})

    def forward(self, x, buckets, hidden):
        y = self.norm1(x)
        q, k, v = (_heads(self.attn[name](y), self.heads) for name in "qkv")
        bias = self.pos_embedding["embedding"](buckets).permute(2, 0, 1)[None] + hidden
        x = x + self.attn["o"](_merge(F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype), scale=1.0)))
        y = self.norm2(x)
        return x + self.ffn["fc2"](self.ffn["fc1"](y) * F.gelu(self.ffn["gate"](y), approximate="tanh"))


class TextEncoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.config = c
        self.token_embedding = nn.Embedding(c["vocab"], c["dim"])
        self.blocks = nn.ModuleList(TextBlock(c) for _ in range(c["num_layers"]))
        self.norm = nn.RMSNorm(c["dim"], 1e-6)

    def forward(self, ids, lengths):
        """ids [B, S], lengths [B] → rows [B, S, dim], zero from each length on."""
        tokens = ids.shape[1]
        valid = torch.arange(tokens)[None] < lengths[:, None]
        hidden = torch.zeros(valid.shape).masked_fill(~valid, float("-inf"))[:, None, None]
        buckets = position_buckets(tokens, self.config["num_buckets"])
        x = self.token_embedding(ids)
        for block in self.blocks:
            x = block(x, buckets, hidden)
        return self.norm(x) * valid[..., None]


def clean(prompt):
    """As the engine does before tokenising."""
    text = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", text).strip()


def token_ids(tokenizer, prompts, limit=TEXT_LEN):
    """(ids [B, longest], lengths [B]); prompts of more than `limit` tokens are cut, `</s>` is last."""
    rows = [tokenizer.encode(clean(prompt), add_special_tokens=False).ids[: limit - 1] + [END] for prompt in prompts]
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for row, out in zip(rows, ids):
        out[: len(row)] = torch.tensor(row)
    return ids, lengths


# ---- pictures -------------------------------------------------------------------------------------------------------


class VisionBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        dim, wide = c["dim"], c["dim"] * c["mlp_ratio"]
        self.heads = c["num_heads"]
        self.norm1, self.norm2 = nn.LayerNorm(dim, c["eps"]), nn.LayerNorm(dim, c["eps"])
        self.attn = nn.ModuleDict({"to_qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)})
        self.mlp = nn.Sequential(nn.Linear(dim, wide), nn.GELU(), nn.Linear(wide, dim))

    def forward(self, x, asked=None):
        """[B, N, dim] → the same; only the first `asked` tokens, if given."""
        q, k, v = (_heads(y, self.heads) for y in self.attn["to_qkv"](self.norm1(x)).chunk(3, -1))
        x, q = x[:, :asked], q[:, :, :asked]
        x = x + self.attn["proj"](_merge(F.scaled_dot_product_attention(q, k, v)))
        return x + self.mlp(self.norm2(x))


class VisionTower(nn.Module):
    """All blocks but the last: what the video model sees of a picture does not pass through that one."""

    def __init__(self, c):
        super().__init__()
        self.config = c
        dim, p = c["dim"], c["patch_size"]
        patches = (c["image_size"] // p) ** 2
        self.cls_embedding = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embedding = nn.Parameter(torch.zeros(1, 1 + patches, dim))
        self.patch_embedding = nn.Conv2d(3, dim, p, p, bias=False)
        self.pre_norm = nn.LayerNorm(dim, c["eps"])
        self.transformer = nn.ModuleList(VisionBlock(c) for _ in range(c["num_layers"] - 1))

    def forward(self, pixels):
        """Normalised pixels [B, 3, S, S] → [B, 1 + patches, dim], the class token first."""
        x = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_embedding.expand(len(x), -1, -1).to(x.dtype), x], 1)
        x = self.pre_norm(x + self.pos_embedding)
        for block in self.transformer:
            x = block(x)
        return x


def normalise(pixels):
    """Pixels [B, 3, H, W] on 0..255 → as the tower takes them."""
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (CLIP_MEAN, CLIP_STD))
    return (pixels / 255 - mean) / std


def squash(frames, side):
    """u8 [B, H, W, 3] → float [B, 3, side, side] on 0..255: bicubic without antialiasing or clamping, as the engine does."""
    pixels = torch.as_tensor(frames).permute(0, 3, 1, 2).float()
    return F.interpolate(pixels, size=(side, side), mode="bicubic", align_corners=False)


# ---- both -----------------------------------------------------------------------------------------------------------


@dataclass
class Encoders:
    """The frozen pair."""

    tokenizer: Tokenizer
    umt5: TextEncoder
    clip: VisionTower
    text_len: int = TEXT_LEN

    @torch.no_grad()
    def text(self, prompts):
        """(rows [B, text_len, dim], lengths [B])."""
        ids, lengths = token_ids(self.tokenizer, prompts, self.text_len)
        rows = self.umt5(ids, lengths)
        return F.pad(rows, (0, 0, 0, self.text_len - rows.shape[1])), lengths

    @torch.no_grad()
    def image(self, frames):
        """u8 [B, H, W, 3] → [B, 1 + patches, dim]."""
        return self.clip(normalise(squash(frames, self.clip.config["image_size"])))


def load_encoders(path):
    """What `recipe.export_text_image` wrote: sizes, weights (already rounded to the stored bf16) and the tokenizer."""
    saved = torch.load(path, weights_only=True)
    umt5, clip = TextEncoder(saved["umt5_config"]), VisionTower(saved["clip_config"])
    umt5.load_state_dict(saved["umt5"])
    clip.load_state_dict(saved["clip"])
    for model in (umt5, clip):
        model.eval().requires_grad_(False)
    return Encoders(Tokenizer.from_str(saved["tokenizer"]), umt5, clip)
