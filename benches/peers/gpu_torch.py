"""Wan's diffusion transformer in PyTorch on a GPU: the forwards of `steadydance bench --device cuda`, for a comparison in one call.

python gpu_torch.py [CASE ...] [--compile] [--runs 5] [--limit SECONDS] [--json FILE]

A case is named as there, without the memory mode: dit-i2v-14b-480x832x81-bf16, or -fp8 (torch._scaled_mm, a scale a row). Weights are
random and made on the device. Attention is scaled_dot_product_attention with the backend that is fastest for the shape. What is
computed is what Wan 2.1's own model computes: 512 text tokens and, for i2v, 257 image tokens; embeddings and head are in it.
steadydancer-14b has its two appended frames of tokens but none of its condition modules, which take next to nothing.
Prints a line a case, and JSON at the end. `--device cpu` with `dit-tiny-…` cases shows that it works where there is no GPU.
"""

import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

BF16 = torch.bfloat16
# Width, feed-forward width, heads, blocks, input channels, whether there are image tokens, appended latent frames.
MODELS = {
    "1.3b": (1536, 8960, 12, 30, 16, False, 0),
    "14b": (5120, 13824, 40, 40, 16, False, 0),
    "i2v-14b": (5120, 13824, 40, 40, 36, True, 0),
    "steadydancer-14b": (5120, 13824, 40, 40, 36, True, 2),
    "tiny": (256, 512, 4, 2, 36, True, 2),
}
TEXT_TOKENS, IMAGE_TOKENS, TEXT_DIM, CLIP_DIM, FREQ_DIM = 512, 257, 4096, 1280, 256
USUAL = [
    "dit-1.3b-480x832x81-bf16",
    "dit-i2v-14b-480x832x81-bf16",
    "dit-i2v-14b-480x832x81-fp8",
    "dit-steadydancer-14b-576x1024x81-bf16",
    "dit-i2v-14b-720x1280x81-bf16",
]


class Fp8Linear(nn.Module):
    """A matrix of e4m3 with a scale a row; inputs are rounded the same way for every token."""

    def __init__(self, linear):
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1, keepdim=True) / 448
        self.register_buffer("weight", (weight / scale).to(torch.float8_e4m3fn).t())
        self.register_buffer("scale", scale.t().contiguous())
        self.bias = linear.bias

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        scale = flat.abs().amax(1, keepdim=True).float().clamp(min=1e-8) / 448
        rounded = (flat / scale).to(torch.float8_e4m3fn)
        y = torch._scaled_mm(rounded, self.weight, scale, self.scale, bias=self.bias, out_dtype=BF16)
        return y.reshape(*x.shape[:-1], -1)


class RmsNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return F.rms_norm(x.float(), x.shape[-1:], self.weight.float(), 1e-6).to(x.dtype)


def rotated(x, angles):
    """x [1, L, H, D], angles [L, 1, D/2] complex."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * angles).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, dim, heads, image=False):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RmsNorm(dim), RmsNorm(dim)
        if image:
            self.k_img, self.v_img, self.norm_k_img = nn.Linear(dim, dim), nn.Linear(dim, dim), RmsNorm(dim)

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1))

    def attend(self, q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def forward(self, x, angles=None, context=None):
        q = self.split(self.norm_q(self.q(x)))
        if context is None:
            k = self.split(self.norm_k(self.k(x)))
            out = self.attend(rotated(q, angles), rotated(k, angles), self.split(self.v(x)))
            return self.o(out)
        text, image = context
        out = self.attend(q, self.split(self.norm_k(self.k(text))), self.split(self.v(text)))
        if image is not None:
            out = out + self.attend(q, self.split(self.norm_k_img(self.k_img(image))), self.split(self.v_img(image)))
        return self.o(out)


class Block(nn.Module):
    def __init__(self, dim, ffn, heads, image):
        super().__init__()
        self.self_attn, self.cross_attn = Attention(dim, heads), Attention(dim, heads, image)
        self.norm3 = nn.LayerNorm(dim, 1e-6)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn), nn.GELU("tanh"), nn.Linear(ffn, dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(self, x, e, angles, context):
        shift, scale, gate, shift_ffn, scale_ffn, gate_ffn = (self.modulation.float() + e).chunk(6, 1)
        normed = lambda x: F.layer_norm(x.float(), x.shape[-1:], eps=1e-6)
        y = self.self_attn((normed(x) * (1 + scale) + shift).to(BF16), angles)
        x = (x.float() + y.float() * gate).to(BF16)
        x = x + self.cross_attn(self.norm3(x), context=context)
        y = self.ffn((normed(x) * (1 + scale_ffn) + shift_ffn).to(BF16))
        return (x.float() + y.float() * gate_ffn).to(BF16)


class Wan(nn.Module):
    def __init__(self, model):
        super().__init__()
        dim, ffn, self.heads, blocks, channels, self.has_image, self.appended = MODELS[model]
        self.dim = dim
        self.patch = nn.Conv3d(channels, dim, (1, 2, 2), (1, 2, 2))
        self.text = nn.Sequential(nn.Linear(TEXT_DIM, dim), nn.GELU("tanh"), nn.Linear(dim, dim))
        self.time = nn.Sequential(nn.Linear(FREQ_DIM, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_rows = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        if self.has_image:
            self.image = nn.Sequential(nn.LayerNorm(CLIP_DIM), nn.Linear(CLIP_DIM, CLIP_DIM), nn.GELU(), nn.Linear(CLIP_DIM, dim), nn.LayerNorm(dim))
        self.blocks = nn.ModuleList(Block(dim, ffn, self.heads, self.has_image) for _ in range(blocks))
        self.head = nn.Linear(dim, 64)
        self.head_modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

    def angles(self, grid, device):
        """Of tokens in (t, y, x) order: [L, 1, D/2] complex."""
        width = self.dim // self.heads
        parts = [width - 4 * (width // 6), 2 * (width // 6), 2 * (width // 6)]
        turns = []
        for axis, (count, part) in enumerate(zip(grid, parts)):
            rate = 1 / 10000 ** (torch.arange(0, part, 2, dtype=torch.float64, device=device) / part)
            turn = torch.outer(torch.arange(count, device=device, dtype=torch.float64), rate)
            shape = [1, 1, 1, part // 2]
            shape[axis] = count
            turns.append(turn.view(shape).expand(*grid, part // 2))
        turn = torch.cat(turns, -1).reshape(-1, 1, width // 2)
        return torch.polar(torch.ones_like(turn), turn).to(torch.complex64)

    def forward(self, latents, appended, timestep, text, image, angles):
        half = FREQ_DIM // 2
        rate = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(half, device=latents.device) / half)
        turn = timestep * rate
        e = self.time(torch.cat([turn.cos(), turn.sin()]).to(BF16)[None])
        rows = self.time_rows(e).float().unflatten(1, (6, -1))
        x = self.patch(latents)
        grid = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        own = x.shape[1]
        x = torch.cat([x, appended], 1) if appended is not None else x
        context = (self.text(text), self.image(image) if self.has_image else None)
        for block in self.blocks:
            x = block(x, rows, angles, context)
        shift, scale = (self.head_modulation.float() + e.float()[:, None]).chunk(2, 1)
        x = self.head((F.layer_norm(x[:, :own].float(), (self.dim,), eps=1e-6) * (1 + scale) + shift).to(BF16))
        t, h, w = grid
        return x.view(1, t, h, w, 2, 2, 16).permute(0, 6, 1, 2, 4, 3, 5).reshape(1, 16, t, 2 * h, 2 * w)


def made(model, form, device):
    """The network with random weights: made on the device, block by block where they are rounded to 8 bits."""
    with torch.device("meta"):
        net = Wan(model)
    net = net.to(BF16).to_empty(device=device)
    for name, p in net.named_parameters():
        if p.dim() > 1 and not name.endswith("modulation"):
            p.data.normal_(0, p[0].numel() ** -0.5)
        elif name.endswith("weight"):
            p.data.fill_(1)
        else:
            p.data.normal_(0, 0.02)
    if form == "fp8":
        for block in net.blocks:
            for part in list(block.modules()):
                for child, linear in list(part.named_children()):
                    if isinstance(linear, nn.Linear):
                        setattr(part, child, Fp8Linear(linear)) if not isinstance(part, nn.Sequential) else part.__setitem__(int(child), Fp8Linear(linear))
    return net.eval().requires_grad_(False)


def timed(run, device, runs):
    """Seconds of each run."""
    seconds = []
    for _ in range(runs):
        if device == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run()
            end.record()
            end.synchronize()
            seconds.append(start.elapsed_time(end) / 1e3)
        else:
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    return seconds


def best_backend(tokens, heads, width, device):
    """The backend of attention that is fastest for self-attention, and the seconds of all that take the shape."""
    names = ["FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"] if device == "cuda" else ["FLASH_ATTENTION", "MATH"]
    q, k, v = (torch.randn(1, heads, tokens, width, device=device, dtype=BF16) for _ in range(3))
    found = {}
    for name in names:
        try:
            with sdpa_kernel(getattr(SDPBackend, name)):
                run = lambda: F.scaled_dot_product_attention(q, k, v)
                run()
                found[name] = min(timed(run, device, 3))
        except (RuntimeError, AttributeError) as error:
            print(f"{name}: {str(error).splitlines()[0]}", file=sys.stderr)
    return min(found, key=found.get), found


def flops(model, tokens):
    """As the engine counts them (spec performance §2.1)."""
    d, f, _, blocks, channels, image, _ = MODELS[model]
    context = TEXT_TOKENS + (IMAGE_TOKENS if image else 0)
    block = 2 * tokens * (6 * d * d + 2 * d * f) + 4 * context * d * d + 4 * tokens * (tokens + context) * d
    return blocks * block + 2 * tokens * (4 * channels + 64) * d


def measure(case, args):
    name = case.removeprefix("dit-")
    name, form = name.rsplit("-", 1)
    model, size = name.rsplit("-", 1)
    if model not in MODELS or form not in ("bf16", "fp8"):
        raise SystemExit(f"{case}: models are {', '.join(MODELS)}, forms bf16 and fp8")
    width, height, frames = (int(n) for n in size.split("x"))
    dim, _, heads, _, channels, has_image, extra = MODELS[model]
    device = args.device
    t, h, w = (frames - 1) // 4 + 1, height // 8, width // 8
    tokens = (t + extra) * (h // 2) * (w // 2)
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    backend, attention = best_backend(tokens, heads, dim // heads, device)
    net = made(model, form, device)
    random = lambda *shape: torch.randn(*shape, device=device, dtype=BF16)
    appended = random(1, extra * (h // 2) * (w // 2), dim) if extra else None
    inputs = (random(1, channels, t, h, w), appended, torch.tensor(700.0, device=device), random(1, TEXT_TOKENS, TEXT_DIM),
              random(1, IMAGE_TOKENS, CLIP_DIM) if has_image else None, net.angles((t + extra, h // 2, w // 2), device))
    if args.compile:
        for block in net.blocks:
            block.compile()
    with sdpa_kernel(getattr(SDPBackend, backend)) if device == "cuda" else torch.no_grad():
        run = lambda: net(*inputs)
        start = time.perf_counter()
        finite = bool(run().isfinite().all())
        first = time.perf_counter() - start
        run()
        seconds = timed(run, device, args.runs)
    ordered = sorted(seconds)
    median = statistics.median(seconds)
    row = {
        "name": case + ("-compiled" if args.compile else ""), "tokens": tokens, "seconds": seconds, "median": median,
        "p90": ordered[max(0, -(-9 * len(ordered) // 10) - 1)], "tflops": flops(model, tokens) / median / 1e12, "first_seconds": first,
        "finite": finite, "attention_backend": backend, "attention_seconds": attention,
        "peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
    }
    print(f"{row['name']:<44} {median:9.3f} s  p90 {row['p90']:.3f}  {row['tflops']:.1f} TFLOP/s  {backend}", flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=USUAL)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--compile", action="store_true", help="torch.compile of each block")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--limit", type=float, default=1e9, help="seconds after which no further case begins")
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.manual_seed(1)
    torch.set_grad_enabled(False)
    began = time.perf_counter()
    report = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
              "compiled": args.compile, "cases": [], "failed": {}}
    for case in args.cases:
        if time.perf_counter() - began > args.limit:
            report["failed"][case] = "no time was left"
            continue
        try:
            report["cases"].append(measure(case, args))
        except RuntimeError as error:  # out of memory among them: the others are still worth having
            report["failed"][case] = str(error).splitlines()[0]
            print(f"{case}: {report['failed'][case]}", file=sys.stderr)
        if args.json:
            with open(args.json, "w") as file:
                json.dump(report, file, indent=1)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
