"""The SteadyDancer DiT in plain PyTorch, float32, one clip at a time.

Written from the description of the network (modules named as in the checkpoint, so a state dict loads as it is);
shares no code with the reference nor with the Rust crates. Letters: T latent frames, h x w latent size, L tokens,
D width.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class DitConfig:
    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    text_dim: int
    clip_dim: int
    freq_dim: int = 256
    text_len: int = 512
    in_dim: int = 36
    in_dim_c: int = 16
    out_dim: int = 16
    eps: float = 1e-6
    model_type: str = "i2v"
    patch_size: tuple[int, int, int] = (1, 2, 2)


def frames(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 2-D convolution on every frame of [C,T,h,w]."""
    return conv(x.transpose(0, 1)).transpose(0, 1)


# ---- condition modules ----------------------------------------------------------------------------------------------


class FactorConv(nn.Module):
    """Depthwise 3x3 inside a frame, SiLU, then a full convolution over three neighbouring frames."""

    def __init__(self, c: int):
        super().__init__()
        self.spatial = nn.Conv3d(c, c, (1, 3, 3), padding=(0, 1, 1), groups=c, bias=False)
        self.temporal = nn.Conv3d(c, c, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.temporal(F.silu(self.spatial(x)))


def hard_sigmoid_3(v: Tensor) -> Tensor:
    return (v + 3).clamp(0, 6) / 3


class Squeeze(nn.Module):
    """Holds `fc.1.fc.0`: a gate of a vector by itself."""

    def __init__(self, q: int):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(q, q, bias=False))

    def forward(self, v: Tensor) -> Tensor:
        return v * hard_sigmoid_3(self.fc(v))


class SpatialExtractor(nn.Module):
    """Dynamic 1x1 convolution: the mixing matrix is predicted from each frame's channel means."""

    def __init__(self, c: int, inner: int = 4, squeeze: int = 4):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 1, bias=False)
        self.conv_q = nn.Conv2d(c, inner, 1, bias=False)
        self.conv_p = nn.Conv2d(inner, c, 1, bias=False)
        self.fc = nn.Sequential(nn.Linear(c, squeeze, bias=False), Squeeze(squeeze))
        self.fc_phi = nn.Linear(squeeze, inner * inner, bias=False)
        self.fc_scale = nn.Linear(squeeze, c, bias=False)
        self.bn1 = nn.GroupNorm(inner, inner)
        self.bn2 = nn.GroupNorm(inner, inner)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)  # [T,C,h,w]: a frame is a sample
        y = self.fc(x.mean((2, 3)))
        q = self.bn1(self.conv_q(x))
        phi = self.fc_phi(y).view(-1, q.shape[1], q.shape[1])
        z = self.bn2(torch.einsum("tij,tjhw->tihw", phi, q)) + q
        kept = hard_sigmoid_3(self.fc_scale(y))[:, :, None, None] * self.conv(x)
        return (self.conv_p(z) + kept).transpose(0, 1)


class ChannelNorm(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, c, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:  # [T,C,h,w]
        mean = x.mean(1, keepdim=True)
        var = (x - mean).square().mean(1, keepdim=True)
        return (x - mean) / torch.sqrt(var + 1e-5) * self.weight + self.bias


class PackedProjections(nn.Module):
    """Weights of torch's multi-head attention, under its names."""

    def __init__(self, c: int):
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * c, c))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * c))
        self.out_proj = nn.Linear(c, c)


class AlignmentUnit(nn.Module):
    """The noisy latent asks, the pose answers: attention over time at every pixel, never across pixels."""

    def __init__(self, c: int, hidden: int = 128, heads: int = 8):
        super().__init__()
        self.heads = heads
        self.proj_p = nn.Conv2d(c, hidden, 1)
        self.proj_r = nn.Conv2d(c, hidden, 1)
        self.proj_p_back = nn.Conv2d(hidden, c, 1)
        self.cross_attn = PackedProjections(hidden)
        self.ffn_pose = nn.Sequential(nn.Conv2d(hidden, hidden, 1), nn.SiLU(), nn.Conv2d(hidden, hidden, 1))
        self.norm1 = ChannelNorm(hidden)
        self.norm2 = ChannelNorm(hidden)

    def forward(self, pose: Tensor, latents: Tensor) -> Tensor:
        p, r = self.proj_p(pose.transpose(0, 1)), self.proj_r(latents.transpose(0, 1))  # [T,128,h,w]
        t, c, h, w = p.shape
        wq, wk, wv = self.cross_attn.in_proj_weight.chunk(3)
        bq, bk, bv = self.cross_attn.in_proj_bias.chunk(3)
        rows = lambda x: x.permute(2, 3, 0, 1).reshape(h * w, t, c)  # a pixel is a sample, its frames the sequence
        split = lambda x: x.view(h * w, t, self.heads, c // self.heads).transpose(1, 2)
        q, k, v = split(F.linear(rows(r), wq, bq)), split(F.linear(rows(p), wk, bk)), split(F.linear(rows(p), wv, bv))
        o = attend(q, k, v).transpose(1, 2).reshape(h * w, t, c)
        o = self.cross_attn.out_proj(o).view(h, w, t, c).permute(2, 3, 0, 1)
        o = self.norm1(o)
        o = self.norm2(o + self.ffn_pose(o))
        return self.proj_p_back(o).transpose(0, 1)


# ---- Wan blocks -----------------------------------------------------------------------------------------------------


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention, [..,heads,len,head_dim], no mask."""
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
    return weights @ v


def layer_norm(x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=eps)


class RmsNorm(nn.Module):
    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def rope_table(grid: tuple[int, int, int], head_dim: int) -> Tensor:
    """Unit complex numbers [L, head_dim/2]: time pairs first, then rows, then columns."""
    side = 2 * (head_dim // 6)
    parts = []
    for axis, d in enumerate((head_dim - 2 * side, side, side)):
        angles = torch.arange(grid[axis], dtype=torch.float64)[:, None] / 10000 ** (
            torch.arange(0, d, 2, dtype=torch.float64) / d
        )
        shape = [1, 1, 1, d // 2]
        shape[axis] = grid[axis]
        parts.append(angles.view(shape).expand(*grid, d // 2))
    angles = torch.cat(parts, -1).reshape(-1, head_dim // 2)
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Adjacent channels are (real, imaginary)."""
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * table).flatten(-2).float()


class Attention(nn.Module):
    def __init__(self, cfg: DitConfig, image: bool):
        super().__init__()
        self.heads = cfg.num_heads
        for name in "qkvo":
            setattr(self, name, nn.Linear(cfg.dim, cfg.dim))
        self.norm_q, self.norm_k = RmsNorm(cfg.dim, cfg.eps), RmsNorm(cfg.dim, cfg.eps)
        if image:
            self.k_img, self.v_img = nn.Linear(cfg.dim, cfg.dim), nn.Linear(cfg.dim, cfg.dim)
            self.norm_k_img = RmsNorm(cfg.dim, cfg.eps)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(0, 1)

    def join(self, x: Tensor) -> Tensor:
        return self.o(x.transpose(0, 1).flatten(1))

    def over_self(self, x: Tensor, table: Tensor) -> Tensor:
        q, k = self.split(self.norm_q(self.q(x))), self.split(self.norm_k(self.k(x)))
        return self.join(attend(rotate(q, table), rotate(k, table), self.split(self.v(x))))

    def over_context(self, x: Tensor, text: Tensor, image: Tensor) -> Tensor:
        q = self.split(self.norm_q(self.q(x)))
        from_text = attend(q, self.split(self.norm_k(self.k(text))), self.split(self.v(text)))
        from_image = attend(q, self.split(self.norm_k_img(self.k_img(image))), self.split(self.v_img(image)))
        return self.join(from_text + from_image)


class Block(nn.Module):
    def __init__(self, cfg: DitConfig):
        super().__init__()
        self.eps = cfg.eps
        self.modulation = nn.Parameter(torch.zeros(1, 6, cfg.dim))
        self.self_attn = Attention(cfg, image=False)
        self.norm3 = nn.LayerNorm(cfg.dim, eps=cfg.eps)
        self.cross_attn = Attention(cfg, image=True)
        self.ffn = nn.Sequential(
            nn.Linear(cfg.dim, cfg.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(cfg.ffn_dim, cfg.dim)
        )

    def forward(self, x: Tensor, e0: Tensor, table: Tensor, text: Tensor, image: Tensor) -> Tensor:
        m = (self.modulation + e0)[0]
        x = x + self.self_attn.over_self(layer_norm(x, self.eps) * (1 + m[1]) + m[0], table) * m[2]
        x = x + self.cross_attn.over_context(self.norm3(x), text, image)
        return x + self.ffn(layer_norm(x, self.eps) * (1 + m[4]) + m[3]) * m[5]


class ImageProjection(nn.Module):
    def __init__(self, clip_dim: int, dim: int):
        super().__init__()
        self.proj = nn.Sequential(
            nn.LayerNorm(clip_dim), nn.Linear(clip_dim, clip_dim), nn.GELU(), nn.Linear(clip_dim, dim), nn.LayerNorm(dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Head(nn.Module):
    def __init__(self, cfg: DitConfig):
        super().__init__()
        self.eps = cfg.eps
        self.modulation = nn.Parameter(torch.zeros(1, 2, cfg.dim))
        self.head = nn.Linear(cfg.dim, math.prod(cfg.patch_size) * cfg.out_dim)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        m = (self.modulation + e)[0]
        return self.head(layer_norm(x, self.eps) * (1 + m[1]) + m[0])


# ---- the network ----------------------------------------------------------------------------------------------------


class SteadyDancerDit(nn.Module):
    def __init__(self, cfg: DitConfig):
        super().__init__()
        self.cfg = cfg
        d, c = cfg.dim, cfg.in_dim_c
        patch = dict(kernel_size=cfg.patch_size, stride=cfg.patch_size)
        self.patch_embedding = nn.Conv3d(cfg.in_dim, d, **patch)
        self.patch_embedding_fuse = nn.Conv3d(cfg.in_dim + 2 * c, d, **patch)
        self.patch_embedding_ref_c = nn.Conv3d(c, d, **patch)
        self.condition_embedding_temporal = nn.Sequential(
            FactorConv(c), nn.SiLU(), FactorConv(c), nn.SiLU(), FactorConv(c), nn.SiLU()
        )
        self.condition_embedding_spatial = SpatialExtractor(c)
        self.condition_embedding_align = AlignmentUnit(c)
        self.text_embedding = nn.Sequential(nn.Linear(cfg.text_dim, d), nn.GELU(approximate="tanh"), nn.Linear(d, d))
        self.time_embedding = nn.Sequential(nn.Linear(cfg.freq_dim, d), nn.SiLU(), nn.Linear(d, d))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))
        self.img_emb = ImageProjection(cfg.clip_dim, d)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.num_layers))
        self.head = Head(cfg)

    def time(self, t: float) -> Tensor:
        half = self.cfg.freq_dim // 2
        angles = t * 10000 ** (-torch.arange(half, dtype=torch.float64) / half)
        return self.time_embedding(torch.cat([angles.cos(), angles.sin()]).float()[None])  # [1,D]

    def forward(
        self,
        latents: Tensor,  # [16,T,h,w]
        t: float,
        text: Tensor,  # [n,text_dim], the valid rows
        y: Tensor,  # [20,T,h,w]: mask, first-frame latents
        pose: Tensor,  # [16,T,h,w]
        ref: Tensor,  # [36,1,h,w]
        pose_ref: Tensor,  # [36,1,h,w], the first 16 channels count
        image_embeds: Tensor,  # [1,n,clip_dim]
        pose_image_embeds: Tensor,
    ) -> Tensor:
        cfg = self.cfg
        fused = pose + self.condition_embedding_temporal(pose[None])[0] + self.condition_embedding_spatial(pose)
        aligned = self.condition_embedding_align(fused, latents)
        video = self.patch_embedding_fuse(torch.cat([latents, y, fused, aligned])[None])
        extra = [self.patch_embedding(ref[None]), self.patch_embedding_ref_c(pose_ref[None, : cfg.in_dim_c])]
        x = torch.cat([video, *extra], 2)
        grid = x.shape[2:]
        x = x[0].flatten(1).T  # [L,D]

        e = self.time(t)
        e0 = self.time_projection(e).view(1, 6, cfg.dim)
        text = self.text_embedding(F.pad(text, (0, 0, 0, cfg.text_len - text.shape[0])))
        image = (self.img_emb(image_embeds) + self.img_emb(pose_image_embeds))[0]
        table = rope_table(grid, cfg.dim // cfg.num_heads)
        for block in self.blocks:
            x = block(x, e0, table, text, image)
        x = self.head(x, e)

        (gt, gh, gw), (_, q, r) = grid, cfg.patch_size
        x = x.view(gt, gh, gw, q, r, cfg.out_dim).permute(5, 0, 1, 3, 2, 4).reshape(cfg.out_dim, gt, gh * q, gw * r)
        return x[:, : latents.shape[1]]
