"""Writes crates/pose/tests/fixtures/nets: YOLOX and RTMPose (DWPose) in plain PyTorch under mmdet's and mmpose's tensor
names, with random weights, as checkpoints, as ONNX exports and with one input and output each.

    python tests/reference/make_pose_nets.py                # the small ones that are committed
    python tests/reference/make_pose_nets.py --full DIR     # YOLOX-L and DWPose-L at full size, 700 MB

The definitions follow the papers and the shapes of the released files; they share nothing with the Rust ones.
"""

import argparse
import collections
import pathlib

import numpy as np
import onnx
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

FIXTURES = pathlib.Path(__file__).parents[2] / "crates/pose/tests/fixtures/nets"


# Exporters differ in how they spell an operation; True writes it out in its arithmetic.
SPELLED_OUT = False


class ConvModule(nn.Module):
    def __init__(self, cin, cout, k, s=1, groups=1, eps=1e-5):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, k, s, k // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(cout, eps=eps)

    def forward(self, x):
        return F.silu(self.bn(self.conv(x)))


class Depthwise(nn.Module):
    def __init__(self, c, k):
        super().__init__()
        self.depthwise_conv = ConvModule(c, c, k, groups=c)
        self.pointwise_conv = ConvModule(c, c, 1)

    def forward(self, x):
        return self.pointwise_conv(self.depthwise_conv(x))


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.fc = nn.Conv2d(c, c, 1)

    def forward(self, x):
        if SPELLED_OUT:
            return (self.fc(x.mean((2, 3), keepdim=True)) + 3).clamp(0, 6) / 6 * x
        return x * F.hardsigmoid(self.fc(F.adaptive_avg_pool2d(x, 1)))


class Block(nn.Module):
    """Darknet's bottleneck, or CSPNeXt's."""

    def __init__(self, c, identity, next_block, eps):
        super().__init__()
        self.identity = identity
        self.conv1 = ConvModule(c, c, 3 if next_block else 1, eps=eps)
        self.conv2 = Depthwise(c, 5) if next_block else ConvModule(c, c, 3, eps=eps)

    def forward(self, x):
        y = self.conv2(self.conv1(x))
        return y + x if self.identity else y


class CSPLayer(nn.Module):
    def __init__(self, cin, cout, n, identity, next_block=False, eps=1e-5):
        super().__init__()
        mid = cout // 2
        self.main_conv = ConvModule(cin, mid, 1, eps=eps)
        self.short_conv = ConvModule(cin, mid, 1, eps=eps)
        self.final_conv = ConvModule(2 * mid, cout, 1, eps=eps)
        self.blocks = nn.Sequential(*[Block(mid, identity, next_block, eps) for _ in range(n)])
        if next_block:
            self.attention = Attention(2 * mid)

    def forward(self, x):
        short, main = self.short_conv(x), self.blocks(self.main_conv(x))
        y = torch.cat([main, short], 1)
        return self.final_conv(self.attention(y) if hasattr(self, "attention") else y)


class SPP(nn.Module):
    def __init__(self, c, eps):
        super().__init__()
        self.conv1 = ConvModule(c, c // 2, 1, eps=eps)
        self.conv2 = ConvModule(2 * c, c, 1, eps=eps)

    def forward(self, x):
        x = self.conv1(x)
        return self.conv2(torch.cat([x] + [F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13)], 1))


class Stages(nn.Module):
    """Four stages of a CSP backbone; `stem` is set by the network."""

    def __init__(self, stem, width, blocks, next_block, eps):
        super().__init__()
        self.stem = stem
        for i, n in enumerate(blocks):
            cin, cout, last = width << i, width << (i + 1), i == 3
            layers = [ConvModule(cin, cout, 3, 2, eps=eps)]
            layers += [SPP(cout, eps)] if last else []
            layers += [CSPLayer(cout, cout, n, not last, next_block, eps)]
            setattr(self, f"stage{i + 1}", nn.Sequential(*layers))

    def forward(self, x):
        outs = [self.stem(x)]
        for i in range(4):
            outs.append(getattr(self, f"stage{i + 1}")(outs[-1]))
        return outs[1:]


class Focus(nn.Module):
    def __init__(self, cout, eps):
        super().__init__()
        self.conv = ConvModule(12, cout, 3, eps=eps)

    def forward(self, x):
        tl, tr = x[..., ::2, ::2], x[..., ::2, 1::2]
        bl, br = x[..., 1::2, ::2], x[..., 1::2, 1::2]
        return self.conv(torch.cat([tl, bl, tr, br], 1))


class PAFPN(nn.Module):
    def __init__(self, cs, cout, n, eps):
        super().__init__()
        conv = lambda *a: ConvModule(*a, eps=eps)
        csp = lambda cin, cout: CSPLayer(cin, cout, n, False, eps=eps)
        self.reduce_layers = nn.ModuleList([conv(cs[2], cs[1], 1), conv(cs[1], cs[0], 1)])
        self.top_down_blocks = nn.ModuleList([csp(2 * cs[1], cs[1]), csp(2 * cs[0], cs[0])])
        self.downsamples = nn.ModuleList([conv(cs[0], cs[0], 3, 2), conv(cs[1], cs[1], 3, 2)])
        self.bottom_up_blocks = nn.ModuleList([csp(2 * cs[0], cs[1]), csp(2 * cs[1], cs[2])])
        self.out_convs = nn.ModuleList([conv(c, cout, 1) for c in cs])

    def forward(self, xs):
        c3, c4, c5 = xs
        up = lambda x: F.interpolate(x, scale_factor=2, mode="nearest")
        p5 = self.reduce_layers[0](c5)
        p4 = self.reduce_layers[1](self.top_down_blocks[0](torch.cat([up(p5), c4], 1)))
        n3 = self.top_down_blocks[1](torch.cat([up(p4), c3], 1))
        n4 = self.bottom_up_blocks[0](torch.cat([self.downsamples[0](n3), p4], 1))
        n5 = self.bottom_up_blocks[1](torch.cat([self.downsamples[1](n4), p5], 1))
        return [conv(x) for conv, x in zip(self.out_convs, (n3, n4, n5))]


class YoloxHead(nn.Module):
    def __init__(self, c, classes, eps):
        super().__init__()
        pair = lambda: nn.Sequential(*[ConvModule(c, c, 3, eps=eps) for _ in range(2)])
        self.multi_level_cls_convs = nn.ModuleList([pair() for _ in range(3)])
        self.multi_level_reg_convs = nn.ModuleList([pair() for _ in range(3)])
        self.multi_level_conv_cls = nn.ModuleList([nn.Conv2d(c, classes, 1) for _ in range(3)])
        self.multi_level_conv_reg = nn.ModuleList([nn.Conv2d(c, 4, 1) for _ in range(3)])
        self.multi_level_conv_obj = nn.ModuleList([nn.Conv2d(c, 1, 1) for _ in range(3)])

    def forward(self, xs, activate):
        levels = []
        act = torch.sigmoid if activate else (lambda v: v)
        for i, x in enumerate(xs):
            cls, reg = self.multi_level_cls_convs[i](x), self.multi_level_reg_convs[i](x)
            parts = [self.multi_level_conv_reg[i](reg), act(self.multi_level_conv_obj[i](reg)), act(self.multi_level_conv_cls[i](cls))]
            levels.append(torch.cat(parts, 1).flatten(start_dim=2))
        return torch.cat(levels, 2).permute(0, 2, 1)


class Yolox(nn.Module):
    """`exported` mimics the graph of Megvii's exporter: sigmoids inside, boxes not decoded."""

    def __init__(self, width, blocks, neck_blocks, classes):
        super().__init__()
        eps = 1e-3
        self.backbone = Stages(Focus(width, eps), width, blocks, False, eps)
        self.neck = PAFPN([width << i for i in (2, 3, 4)], width * 4, neck_blocks, eps)
        self.bbox_head = YoloxHead(width * 4, classes, eps)
        self.exported = False

    def taps(self, x):
        xs = self.backbone(x)
        neck = self.neck(xs[1:])
        named = {"backbone.stage2.1.final_conv": xs[1], "backbone.stage3.1.final_conv": xs[2], "backbone.stage4.2.final_conv": xs[3]}
        return named | {f"neck.out_convs.{i}": x for i, x in enumerate(neck)}

    def forward(self, x):
        return self.bbox_head(self.neck(self.backbone(x)[1:]), self.exported)


class ScaleNorm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.g, self.d = nn.Parameter(torch.ones(1)), d

    def forward(self, x):
        length = torch.sqrt((x * x).sum(2, keepdim=True)) if SPELLED_OUT else torch.norm(x, dim=2, keepdim=True)
        return x / (length * self.d**-0.5).clamp(min=1e-5) * self.g


class Scale(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return x * self.scale


class Gau(nn.Module):
    def __init__(self, d, s):
        super().__init__()
        self.e, self.s = 2 * d, s
        self.ln, self.res_scale = ScaleNorm(d), Scale(d)
        self.uv, self.o = nn.Linear(d, 2 * self.e + s, bias=False), nn.Linear(self.e, d, bias=False)
        self.gamma, self.beta = nn.Parameter(torch.rand(2, s)), nn.Parameter(torch.rand(2, s))

    def forward(self, x):
        u, v, base = torch.split(F.silu(self.uv(self.ln(x))), [self.e, self.e, self.s], dim=2)
        pair = base.unsqueeze(2) * self.gamma[None, None, :] + self.beta
        q, k = (pair[:, :, 0], pair[:, :, 1]) if SPELLED_OUT else torch.unbind(pair, dim=2)
        scores = F.relu(torch.bmm(q, k.permute(0, 2, 1)) / self.s**0.5)
        kernel = scores**2 if SPELLED_OUT else torch.square(scores)
        return self.res_scale(x) + self.o(u * torch.bmm(kernel, v))


class RtmccHead(nn.Module):
    def __init__(self, c, points, size, hidden, s, kernel=7):
        super().__init__()
        h, w = size
        self.final_layer = nn.Conv2d(c, points, kernel, padding=kernel // 2)
        features = h * w // 1024
        self.mlp = nn.Sequential(ScaleNorm(features), nn.Linear(features, hidden, bias=False))
        self.gau = Gau(hidden, s)
        self.cls_x, self.cls_y = nn.Linear(hidden, 2 * w, bias=False), nn.Linear(hidden, 2 * h, bias=False)

    def forward(self, x):
        x = self.gau(self.mlp(torch.flatten(self.final_layer(x), 2)))
        return self.cls_x(x), self.cls_y(x)


class RtmPose(nn.Module):
    def __init__(self, width, blocks, points, size, hidden, s, kernel=7):
        super().__init__()
        half = width // 2
        stem = nn.Sequential(ConvModule(3, half, 3, 2), ConvModule(half, half, 3), ConvModule(half, width, 3))
        self.backbone = Stages(stem, width, blocks, True, 1e-5)
        self.head = RtmccHead(width * 16, points, size, hidden, s, kernel)

    def taps(self, x):
        xs = self.backbone(x)
        named = {f"backbone.stage{i + 1}.1.final_conv": x for i, x in enumerate(xs[:3])}
        return named | {"backbone.stage4.2.final_conv": xs[3], "head.final_layer": self.head.final_layer(xs[3])}

    def forward(self, x):
        return self.head(self.backbone(x)[-1])


def randomize(net, example, seed):
    """Weights, gains and statistics all random; statistics near those of the data, so that activations stay O(1)."""
    g = torch.Generator().manual_seed(seed)
    uniform = lambda t, a, b: t.uniform_(a, b, generator=g)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if p.dim() > 1 and "gau.gamma" not in name and "gau.beta" not in name:
                p.normal_(0, p[0].numel() ** -0.5, generator=g)
            elif name.endswith("bias") or "beta" in name:
                p.normal_(0, 0.3, generator=g)
            else:
                uniform(p, 0.7, 1.3)
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        for m in norms:
            m.momentum = 1.0
        net.train()(example)
        net.eval()
        for m in norms:
            m.running_mean += m.running_var.sqrt() * uniform(torch.empty_like(m.running_var), -0.2, 0.2)
            # A channel that hardly varied in the example would blow up what the shifted ones before it make of it.
            m.running_var.clamp_(min=0.2).mul_(uniform(torch.empty_like(m.running_var), 0.8, 1.25))
            m.momentum = 0.1
    return net


def picture(batch, h, w, g):
    """Blobs under some noise, in 0..1: of white noise alone deep layers see hardly more than its mean."""
    blobs = torch.rand(batch, 3, h // 16, w // 16, generator=g)
    blobs = F.interpolate(blobs, size=(h, w), mode="bicubic")
    return (0.8 * blobs + 0.2 * torch.rand(batch, 3, h, w, generator=g)).clamp(0, 1)


def exact(net, x):
    """Outputs and taps in float64 sums, and how far float32 is from them."""
    with torch.no_grad():
        single = net(x)
        net.double()
        outputs, taps = net(x.double()), net.taps(x.double())
        net.float()
    single, outputs = [o if isinstance(o, tuple) else (o,) for o in (single, outputs)]
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(single, outputs)]
    print("  PyTorch's own error in float32:", *(f"{e:.1e}" for e in errors), "output deviation", *(f"{o.std():.2f}" for o in outputs))
    return [o.float() for o in outputs], {k: v.float() for k, v in taps.items()}


def save_pth(net, path, legacy, extras=()):
    """As mmdet and mmpose nest it; `legacy` as OpenMMLab publishes (no zip archive)."""
    state = collections.OrderedDict(net.state_dict())
    for name in extras:
        state[name] = torch.zeros(3)
    meta = {
        "epoch": 300, "iter": 17, "time": "Fri Nov 26", "config": "model = dict()\n" * 20, "CLASSES": ("person", "bicycle"),
        "PALETTE": [(220, 20, 60)], "sigmas": np.array([0.026, 0.025], np.float32), "hook_msgs": {"best": None, "score": 0.5},
        "lr": np.float64(0.1),
    }
    torch.save({"meta": meta, "state_dict": state}, path, _use_new_zipfile_serialization=not legacy)


def export(net, example, path, opset, folded, inputs, outputs, dynamic):
    global SPELLED_OUT
    SPELLED_OUT = not folded
    axes = {name: {0: "batch"} for name in inputs + outputs} if dynamic else None
    mode = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(net, (example,), path, dynamo=False, opset_version=opset, input_names=inputs, output_names=outputs,
                      dynamic_axes=axes, training=mode, do_constant_folding=folded, keep_initializers_as_inputs=not folded)
    SPELLED_OUT = False
    onnx.checker.check_model(str(path))


def yolox(folder, name, make, size, seed, unfolded):
    h, w = size
    g = torch.Generator().manual_seed(seed)
    x = picture(1, h, w, g) * 255
    net = randomize(make(), torch.cat([x, picture(3, h, w, g) * 255]), seed)
    print(name, sum(p.numel() for p in net.parameters()), "parameters")
    (y,), taps = exact(net, x)
    save_pth(net, folder / f"{name}.pth", legacy=True, extras=["ema_backbone_stem_conv_conv_weight"])
    net.exported = True
    export(net, x, folder / f"{name}.onnx", 11, True, ["images"], ["output"], False)
    if unfolded:
        export(net, x, folder / f"{name}_unfolded.onnx", 17, False, ["images"], ["output"], True)
    save_case(folder / f"{name}.safetensors", x, {"output": y}, taps if unfolded else {})


def pose(folder, name, make, size, seed, unfolded):
    h, w = size
    g = torch.Generator().manual_seed(seed)
    x = picture(2, h, w, g) * 4 - 2
    net = randomize(make(), torch.cat([x, picture(2, h, w, g) * 4 - 2]), seed)
    print(name, sum(p.numel() for p in net.parameters()), "parameters")
    (sx, sy), taps = exact(net, x)
    save_pth(net, folder / f"{name}.pth", legacy=False, extras=["teacher.backbone.stem.0.conv.weight", "data_preprocessor.mean"])
    export(net, x, folder / f"{name}.onnx", 11, True, ["input"], ["simcc_x", "simcc_y"], True)
    if unfolded:
        export(net, x, folder / f"{name}_unfolded.onnx", 17, False, ["input"], ["simcc_x", "simcc_y"], False)
    save_case(folder / f"{name}.safetensors", x, {"simcc_x": sx, "simcc_y": sy}, taps if unfolded else {})


def save_case(path, x, outputs, taps):
    last = lambda t: t.permute(0, 2, 3, 1).contiguous()
    tensors = {"input": last(x), **{k: v.contiguous() for k, v in outputs.items()}}
    save_file(tensors | {f"tap.{k}": last(v) for k, v in taps.items()}, path)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--full", type=pathlib.Path)
    full = args.parse_args().full
    if full:
        full.mkdir(parents=True, exist_ok=True)
        yolox(full, "yolox_l", lambda: Yolox(64, [3, 9, 9, 3], 3, 80), (640, 640), 1, False)
        pose(full, "dw-ll_ucoco_384", lambda: RtmPose(64, [3, 6, 6, 3], 133, (384, 288), 256, 128), (384, 288), 2, False)
        return
    FIXTURES.mkdir(parents=True, exist_ok=True)
    yolox(FIXTURES, "yolox", lambda: Yolox(2, [1, 2, 1, 1], 2, 3), (64, 96), 3, True)
    pose(FIXTURES, "pose", lambda: RtmPose(2, [1, 1, 2, 1], 4, (64, 32), 12, 8), (64, 32), 4, True)
    other = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(2))
    export(other, torch.rand(1, 3, 64, 96), FIXTURES / "other.onnx", 11, True, ["images"], ["output"], False)


if __name__ == "__main__":
    main()
