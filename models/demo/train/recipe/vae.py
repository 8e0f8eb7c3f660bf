"""The causal 3-D VAE of Wan 2.1 for whole clips, under the release's tensor names.

Written from the description of the network; all frames go through each layer at once, which equals the chunked original.
"""

import torch
import torch.nn.functional as F
from torch import nn

CONFIG = {"dim": 16, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1, "temporal_downsample": [False, True, True]}


class CausalConv(nn.Conv3d):
    """Zero frames before the first, zeros around each."""

    def __init__(self, cin, cout, k):
        super().__init__(cin, cout, k)
        kt, kh, kw = self.kernel_size
        # Only the present frame counts at first: a clip goes through as its frames through a 2-D network.
        with torch.no_grad():
            nn.init.kaiming_normal_(self.weight, nonlinearity="linear")
            self.weight[:, :, :-1] = 0
            self.weight[:, :, -1] *= kt**0.5
            nn.init.zeros_(self.bias)
        self.before, self.padding = kt - 1, (0, kh // 2, kw // 2)

    def forward(self, x):
        if x.shape[2] == 1:  # what lies before is zero: the last tap is all there is
            return F.conv2d(x[:, :, 0], self.weight[:, :, -1], self.bias, padding=self.padding[1:])[:, :, None]
        return super().forward(F.pad(x, (0, 0, 0, 0, self.before, 0)) if self.before else x)


@torch.compile(dynamic=True)
def _norm_silu(x, gamma):
    y = x.float()
    return F.silu(y * y.square().mean(-1, keepdim=True).clamp_min(1e-24).rsqrt() * gamma).to(x.dtype)


@torch.compile(dynamic=True)
def _norm(x, gamma):
    y = x.float()
    return (y * y.square().mean(-1, keepdim=True).clamp_min(1e-24).rsqrt() * gamma).to(x.dtype)


class Norm(nn.Module):
    """RMS over the channels of each position; with SiLU in the same pass for the layers that follow it by one."""

    def __init__(self, channels, dims, silu=True):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * dims))
        self.silu = silu

    def forward(self, x):
        rows = x.movedim(1, -1).contiguous()  # no copy for channels-last tensors
        y = (_norm_silu if self.silu else _norm)(rows.view(-1, rows.shape[-1]), self.gamma.flatten())
        return y.view(rows.shape).movedim(-1, 1)


class Residual(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.residual = nn.Sequential(
            Norm(cin, 3), nn.Identity(), CausalConv(cin, cout, 3), Norm(cout, 3), nn.Identity(), nn.Identity(), CausalConv(cout, cout, 3)
        )
        self.shortcut = CausalConv(cin, cout, 1) if cin != cout else nn.Identity()
        nn.init.zeros_(self.residual[-1].weight)

    def forward(self, x):
        return self.shortcut(x) + self.residual(x)


def per_frame(layer, x):
    """A 2-D layer on every frame of [B, C, T, H, W]."""
    b, _, t = x.shape[:3]
    y = layer(x.transpose(1, 2).flatten(0, 1))
    return y.unflatten(0, (b, t)).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm = Norm(c, 2, silu=False)
        self.to_qkv = nn.Conv2d(c, 3 * c, 1)
        self.proj = nn.Conv2d(c, c, 1)
        nn.init.zeros_(self.proj.weight)

    def forward(self, x):
        return x + per_frame(self.inside, x)

    def inside(self, x):
        q, k, v = self.to_qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, -1)
        out = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return self.proj(out.transpose(1, 2).unflatten(2, x.shape[2:]))


class PadAndHalve(nn.Conv2d):
    """Stride 2 with a row and a column of zeros after the last ones only."""

    def __init__(self, c):
        super().__init__(c, c, 3, stride=2)

    def forward(self, x):
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class Down(nn.Module):
    def __init__(self, c, temporal):
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), PadAndHalve(c))
        if temporal:
            self.time_conv = nn.Conv3d(c, c, (3, 1, 1), stride=(2, 1, 1))
            with torch.no_grad():  # at first every second frame passes
                nn.init.zeros_(self.time_conv.bias)
                self.time_conv.weight.zero_()[:, :, 2, 0, 0] = torch.eye(c)

    def forward(self, x):
        x = per_frame(self.resample, x)
        if not hasattr(self, "time_conv"):
            return x
        return torch.cat([x[:, :, :1], self.time_conv(x)], 2) if x.shape[2] > 1 else x


class Up(nn.Module):
    def __init__(self, c, temporal):
        super().__init__()
        if temporal:
            self.time_conv = CausalConv(c, 2 * c, (3, 1, 1))
            with torch.no_grad():  # at first every frame is shown twice
                self.time_conv.weight.zero_()[:, :, 2, 0, 0] = torch.eye(c).repeat(2, 1)
        self.resample = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest-exact"), nn.Conv2d(c, c // 2, 3, padding=1))

    def forward(self, x):
        if hasattr(self, "time_conv") and x.shape[2] > 1:
            even, odd = self.time_conv(x[:, :, 1:]).chunk(2, 1)
            x = torch.cat([x[:, :, :1], torch.stack([even, odd], 3).flatten(2, 3)], 2)
        return per_frame(self.resample, x)


def head(c, out):
    return nn.Sequential(Norm(c, 3), nn.Identity(), CausalConv(c, out, 3))


class Encoder(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        widths = [cfg["dim"] * m for m in cfg["dim_mult"]]
        self.conv1 = CausalConv(3, cfg["dim"], 3)
        layers, c = [], cfg["dim"]
        for i, width in enumerate(widths):
            for _ in range(cfg["num_res_blocks"]):
                layers.append(Residual(c, width))
                c = width
            if i < len(widths) - 1:
                layers.append(Down(c, cfg["temporal_downsample"][i]))
        self.downsamples = nn.Sequential(*layers)
        self.middle = nn.Sequential(Residual(c, c), Attention(c), Residual(c, c))
        self.head = head(c, 2 * cfg["z_dim"])

    def forward(self, x):
        return self.head(self.middle(self.downsamples(self.conv1(x))))


class Decoder(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        widths = [cfg["dim"] * m for m in cfg["dim_mult"]][::-1]
        c = widths[0]
        self.conv1 = CausalConv(cfg["z_dim"], c, 3)
        self.middle = nn.Sequential(Residual(c, c), Attention(c), Residual(c, c))
        layers = []
        for i, width in enumerate(widths):
            for _ in range(cfg["num_res_blocks"] + 1):
                layers.append(Residual(c, width))
                c = width
            if i < len(widths) - 1:
                layers.append(Up(c, cfg["temporal_downsample"][len(widths) - 2 - i]))
                c //= 2
        self.upsamples = nn.Sequential(*layers)
        self.head = head(c, 3)

    def forward(self, x):
        return self.head(self.upsamples(self.middle(self.conv1(x))))


class Vae(nn.Module):
    """Raw latents; `normalise` and `denormalise` are between them and the diffusion model's."""

    def __init__(self, cfg=CONFIG):
        super().__init__()
        self.cfg = cfg
        z = cfg["z_dim"]
        self.encoder, self.decoder = Encoder(cfg), Decoder(cfg)
        self.conv1, self.conv2 = CausalConv(2 * z, 2 * z, 1), CausalConv(z, z, 1)
        for name in ("mean", "std"):
            value = torch.tensor(cfg.get(name, [float(name == "std")] * z)).view(-1, 1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def encode(self, x):
        """[B, 3, T, H, W] in [-1, 1] -> mean and log-variance [B, z, F, h, w]."""
        return self.conv1(self.encoder(x)).chunk(2, 1)

    def decode(self, z):
        return self.decoder(self.conv2(z))

    def normalise(self, z):
        return (z - self.mean) / self.std

    def denormalise(self, z):
        return z * self.std + self.mean


def load_vae(path):
    """A trained VAE for use: its averaged weights, rounded to bfloat16 as they are shipped."""
    saved = torch.load(path)
    vae = Vae(CONFIG | {k: saved[k].tolist() for k in ("mean", "std") if k in saved})
    vae.load_state_dict({k: v.bfloat16().float() for k, v in saved["average"].items()})
    for p in vae.parameters():
        if p.dim() == 5:
            p.data = p.data.contiguous(memory_format=torch.channels_last_3d)
    return vae.eval()
