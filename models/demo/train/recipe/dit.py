"""The SteadyDancer DiT for batches of clips, under the checkpoint's tensor names.

tests/reference/steadydancer_dit.py describes the same network one clip at a time; `tests/test_recipe.py` holds them together.
Letters: B clips, T latent frames, h x w latent size, L tokens, D width, S text rows.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn

CONFIG = {
    "model_type": "i2v", "in_dim": 36, "in_dim_c": 16, "out_dim": 16, "dim": 256, "ffn_dim": 512, "freq_dim": 256, "num_heads": 4,
    "num_layers": 7, "text_dim": 96, "clip_dim": 96, "text_len": 64, "eps": 1e-6,
}  # fmt: skip


def per_frame(layer, x):
    """A 2-D layer on every frame of [B, C, T, h, w]."""
    b, _, t = x.shape[:3]
    return layer(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (b, t)).transpose(1, 2)


class FactorConv(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.spatial = nn.Conv3d(c, c, (1, 3, 3), padding=(0, 1, 1), groups=c, bias=False)
        self.temporal = nn.Conv3d(c, c, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x):
        return self.temporal(F.silu(self.spatial(x)))


def hard_gate(v):
    return (v + 3).clamp(0, 6) / 3


class Squeeze(nn.Module):
    def __init__(self, q):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(q, q, bias=False))

    def forward(self, v):
        return v * hard_gate(self.fc(v))


class SpatialExtractor(nn.Module):
    """A 1x1 convolution whose mixing follows each frame's channel means; [B·T, C, h, w]."""

    def __init__(self, c, inner=4, squeeze=4):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 1, bias=False)
        self.conv_q = nn.Conv2d(c, inner, 1, bias=False)
        self.conv_p = nn.Conv2d(inner, c, 1, bias=False)
        self.fc = nn.Sequential(nn.Linear(c, squeeze, bias=False), Squeeze(squeeze))
        self.fc_phi = nn.Linear(squeeze, inner * inner, bias=False)
        self.fc_scale = nn.Linear(squeeze, c, bias=False)
        self.bn1, self.bn2 = nn.GroupNorm(inner, inner), nn.GroupNorm(inner, inner)

    def forward(self, x):
        y = self.fc(x.mean((2, 3)))
        q = self.bn1(self.conv_q(x))
        phi = self.fc_phi(y).unflatten(1, (q.shape[1], q.shape[1]))
        z = self.bn2(torch.einsum("tij,tjhw->tihw", phi, q)) + q
        return self.conv_p(z) + hard_gate(self.fc_scale(y))[:, :, None, None] * self.conv(x)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of [.., C], with the checkpoint's [1, C, 1, 1] weights."""

    def __init__(self, c):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(1, c, 1, 1)), nn.Parameter(torch.zeros(1, c, 1, 1))

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.weight.flatten(), self.bias.flatten(), 1e-5)


class PackedProjections(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.in_proj_weight, self.in_proj_bias = nn.Parameter(torch.empty(3 * c, c)), nn.Parameter(torch.zeros(3 * c))
        nn.init.xavier_uniform_(self.in_proj_weight)
        self.out_proj = nn.Linear(c, c)


class AlignmentUnit(nn.Module):
    """The noisy latent asks, the pose answers: attention over time at every pixel."""

    def __init__(self, c, hidden=128, heads=8):
        super().__init__()
        self.heads = heads
        self.proj_p, self.proj_r = nn.Conv2d(c, hidden, 1), nn.Conv2d(c, hidden, 1)
        self.proj_p_back = nn.Conv2d(hidden, c, 1)
        self.cross_attn = PackedProjections(hidden)
        self.ffn_pose = nn.Sequential(nn.Conv2d(hidden, hidden, 1), nn.SiLU(), nn.Conv2d(hidden, hidden, 1))
        self.norm1, self.norm2 = ChannelNorm(hidden), ChannelNorm(hidden)

    def forward(self, pose, latents):
        linear = lambda conv, x: F.linear(x, conv.weight.flatten(1), conv.bias)
        rows = lambda x: x.permute(0, 3, 4, 2, 1).flatten(0, 2)  # [B·h·w, T, C]
        p, r = linear(self.proj_p, rows(pose)), linear(self.proj_r, rows(latents))
        wq, wk, wv = self.cross_attn.in_proj_weight.chunk(3)
        bq, bk, bv = self.cross_attn.in_proj_bias.chunk(3)
        q, k, v = (F.linear(x, w, b).unflatten(-1, (self.heads, -1)) for x, w, b in ((r, wq, bq), (p, wk, bk), (p, wv, bv)))
        weights = (torch.einsum("nqhd,nkhd->nhqk", q, k) / math.sqrt(q.shape[-1])).float().softmax(-1).to(v.dtype)
        o = torch.einsum("nhqk,nkhd->nqhd", weights, v).flatten(2)
        o = self.norm1(self.cross_attn.out_proj(o))
        o = self.norm2(o + linear(self.ffn_pose[2], F.silu(linear(self.ffn_pose[0], o))))
        b, _, t, h, w = pose.shape
        return linear(self.proj_p_back, o).view(b, h, w, t, -1).permute(0, 4, 3, 1, 2)


class RmsNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(dim))

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


@lru_cache(16)
def rope_table(grid, head_dim, device):
    """(cos, sin) [L, head_dim/2]: time pairs first, then rows, then columns."""
    side = 2 * (head_dim // 6)
    parts = []
    for axis, d in enumerate((head_dim - 2 * side, side, side)):
        rates = 10000 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
        angles = torch.arange(grid[axis], dtype=torch.float64)[:, None] * rates
        shape = [1, 1, 1, d // 2]
        shape[axis] = grid[axis]
        parts.append(angles.view(shape).expand(*grid, d // 2))
    angles = torch.cat(parts, -1).reshape(-1, head_dim // 2)
    return angles.cos().float().to(device), angles.sin().float().to(device)


def rotate(x, table):
    """[B, L, heads, head_dim]; adjacent channels are (real, imaginary)."""
    cos, sin = (t[:, None] for t in table)
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def attend(q, k, v):
    """[B, len, heads, head_dim] each -> [B, len, D]."""
    q, k, v = (x.to(v.dtype).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    def __init__(self, cfg, image):
        super().__init__()
        d = cfg["dim"]
        self.heads = cfg["num_heads"]
        for name in "qkvo":
            setattr(self, name, nn.Linear(d, d))
        self.norm_q, self.norm_k = RmsNorm(d, cfg["eps"]), RmsNorm(d, cfg["eps"])
        if image:
            self.k_img, self.v_img = nn.Linear(d, d), nn.Linear(d, d)
            self.norm_k_img = RmsNorm(d, cfg["eps"])

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1))

    def over_self(self, x, table):
        q, k = (rotate(self.split(n(p(x))), table) for n, p in ((self.norm_q, self.q), (self.norm_k, self.k)))
        return self.o(attend(q, k, self.split(self.v(x))))

    def over_context(self, x, text, image):
        q = self.split(self.norm_q(self.q(x)))
        from_text = attend(q, self.split(self.norm_k(self.k(text))), self.split(self.v(text)))
        from_image = attend(q, self.split(self.norm_k_img(self.k_img(image))), self.split(self.v_img(image)))
        return self.o(from_text + from_image)


def plain_norm(x, eps):
    return F.layer_norm(x, x.shape[-1:], eps=eps)


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        d = cfg["dim"]
        self.eps = cfg["eps"]
        self.modulation = nn.Parameter(torch.zeros(1, 6, d))
        self.self_attn = Attention(cfg, image=False)
        self.norm3 = nn.LayerNorm(d, eps=cfg["eps"])
        self.cross_attn = Attention(cfg, image=True)
        self.ffn = nn.Sequential(nn.Linear(d, cfg["ffn_dim"]), nn.GELU(approximate="tanh"), nn.Linear(cfg["ffn_dim"], d))

    def forward(self, x, e0, cos, sin, text, image):
        m = (self.modulation + e0.float()).unsqueeze(2).unbind(1)
        x = x + self.self_attn.over_self(plain_norm(x, self.eps) * (1 + m[1]) + m[0], (cos, sin)) * m[2]
        x = x + self.cross_attn.over_context(self.norm3(x), text, image)
        return x + self.ffn(plain_norm(x, self.eps) * (1 + m[4]) + m[3]) * m[5]


class ImageProjection(nn.Module):
    def __init__(self, clip_dim, d):
        super().__init__()
        self.proj = nn.Sequential(
            nn.LayerNorm(clip_dim), nn.Linear(clip_dim, clip_dim), nn.GELU(), nn.Linear(clip_dim, d), nn.LayerNorm(d)
        )

    def forward(self, x):
        return self.proj(x)


class Head(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.eps = cfg["eps"]
        self.modulation = nn.Parameter(torch.zeros(1, 2, cfg["dim"]))
        self.head = nn.Linear(cfg["dim"], 4 * cfg["out_dim"])

    def forward(self, x, e):
        m = (self.modulation + e[:, None]).unsqueeze(2).unbind(1)
        return self.head(plain_norm(x, self.eps) * (1 + m[1]) + m[0])


class Dit(nn.Module):
    def __init__(self, cfg=CONFIG):
        super().__init__()
        self.cfg = cfg
        d, c = cfg["dim"], cfg["in_dim_c"]
        patch = {"kernel_size": (1, 2, 2), "stride": (1, 2, 2)}
        self.patch_embedding = nn.Conv3d(cfg["in_dim"], d, **patch)
        self.patch_embedding_fuse = nn.Conv3d(cfg["in_dim"] + 2 * c, d, **patch)
        self.patch_embedding_ref_c = nn.Conv3d(c, d, **patch)
        self.condition_embedding_temporal = nn.Sequential(
            FactorConv(c), nn.SiLU(), FactorConv(c), nn.SiLU(), FactorConv(c), nn.SiLU()
        )
        self.condition_embedding_spatial = SpatialExtractor(c)
        self.condition_embedding_align = AlignmentUnit(c)
        self.text_embedding = nn.Sequential(nn.Linear(cfg["text_dim"], d), nn.GELU(approximate="tanh"), nn.Linear(d, d))
        self.time_embedding = nn.Sequential(nn.Linear(cfg["freq_dim"], d), nn.SiLU(), nn.Linear(d, d))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))
        self.img_emb = ImageProjection(cfg["clip_dim"], d)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg["num_layers"]))
        self.head = Head(cfg)

    def initialise(self):
        """Gates closed and velocity zero at first, as diffusion transformers are begun."""
        for p in self.modules():
            if isinstance(p, nn.Linear):
                nn.init.xavier_uniform_(p.weight)
                if p.bias is not None:
                    nn.init.zeros_(p.bias)
        for block in self.blocks:
            nn.init.normal_(block.modulation, std=0.02)
            with torch.no_grad():
                block.modulation[:, [2, 5]] += 0.3
            nn.init.normal_(block.cross_attn.o.weight, std=0.01)
        nn.init.normal_(self.time_projection[1].weight, std=0.01)
        nn.init.zeros_(self.head.head.weight)

    def compile_blocks(self):
        """Faster by an eighth; once for each shape of a clip."""
        torch._dynamo.config.recompile_limit = 32
        for block in self.blocks:
            block.compile(dynamic=False)

    def time(self, t):
        """[B] in 0..1000 -> [B, D], in f32."""
        half = self.cfg["freq_dim"] // 2
        angles = t.double()[:, None] * 10000 ** (-torch.arange(half, dtype=torch.float64, device=t.device) / half)
        return self.time_embedding(torch.cat([angles.cos(), angles.sin()], -1).float())

    def forward(self, latents, t, text, y, pose, ref, pose_ref, image, pose_image):
        """latents, pose [B, 16, T, h, w]; t [B]; text [B, S, C]; y [B, 20, T, h, w]; ref [B, 36, 1, h, w]; pose_ref
        [B, 16, 1, h, w]; image, pose_image [B, n, C] -> velocity [B, 16, T, h, w].
        """
        cfg = self.cfg
        fused = pose + self.condition_embedding_temporal(pose) + per_frame(self.condition_embedding_spatial, pose)
        aligned = self.condition_embedding_align(fused, latents)
        video = self.patch_embedding_fuse(torch.cat([latents, y, fused.to(y.dtype), aligned.to(y.dtype)], 1))
        x = torch.cat([video, self.patch_embedding(ref), self.patch_embedding_ref_c(pose_ref)], 2)
        grid = x.shape[2:]
        x = x.flatten(2).transpose(1, 2).float()
        with torch.autocast(x.device.type, enabled=False):
            e = self.time(t)
            e0 = self.time_projection(e).unflatten(1, (6, cfg["dim"]))
        text = self.text_embedding(F.pad(text, (0, 0, 0, cfg["text_len"] - text.shape[1])))
        context = self.img_emb(image) + self.img_emb(pose_image)
        cos, sin = rope_table(tuple(grid), cfg["dim"] // cfg["num_heads"], x.device)
        for block in self.blocks:
            x = block(x, e0, cos, sin, text, context)
        x = self.head(x, e).float()
        b, (gt, gh, gw) = x.shape[0], grid
        x = x.view(b, gt, gh, gw, 2, 2, cfg["out_dim"]).permute(0, 6, 1, 2, 4, 3, 5)
        return x.reshape(b, cfg["out_dim"], gt, gh * 2, gw * 2)[:, :, : latents.shape[2]]
