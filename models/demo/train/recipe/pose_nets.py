"""The pose networks at demo size: YOLOX and RTMPose under mmdet's and mmpose's names, their losses, and their files.

The definitions are those that the engine's tests compare it with (tests/reference/make_pose_nets.py).
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[4] / "tests/reference"))
from make_pose_nets import RtmPose, Yolox  # noqa: E402

POINTS = 133
STRIDES = (8, 16, 32)
# What differs between the pair that the engine carries and the pair that judges its output.
PAIRS = {
    "pose": {
        "detector": {"side": 128, "width": 5, "blocks": [1, 1, 1, 1]},
        "estimator": {"crop": (128, 96), "width": 12, "blocks": [1, 1, 2, 1], "hidden": 96, "attention": 64},
        "wear": 0.7,
    },
    "judge": {
        "detector": {"side": 160, "width": 6, "blocks": [1, 1, 1, 1]},
        "estimator": {"crop": (160, 128), "width": 12, "blocks": [1, 1, 2, 1], "hidden": 128, "attention": 64},
        "wear": 1.3,
    },
}


def detector(width, blocks, **_):
    net = Yolox(width, blocks, 1, 1)
    for branch in (net.bbox_head.multi_level_conv_obj, net.bbox_head.multi_level_conv_cls):
        for conv in branch:
            torch.nn.init.constant_(conv.bias, -3.0)
    return net


def estimator(crop, width, blocks, hidden, attention):
    net = RtmPose(width, blocks, POINTS, crop, hidden, attention, kernel=1)
    with torch.no_grad():  # curves are near 0 nearly everywhere
        for layer in (net.head.cls_x, net.head.cls_y):
            layer.weight *= 0.02
        net.head.gau.o.weight *= 0.1
    return net


# ---- detector ----


def places(side, device=None):
    """[N, 3]: column, row and stride of every place of a square picture."""
    rows = []
    for stride in STRIDES:
        n = side // stride
        y, x = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
        rows.append(torch.stack([x.flatten(), y.flatten(), torch.full((n * n,), stride)], 1))
    return torch.cat(rows).float().to(device)


def boxes(raw, at):
    """[B, N, 4] corners of a raw output [B, N, 4+]."""
    centre = (raw[..., :2] + at[:, :2]) * at[:, 2:]
    half = raw[..., 2:4].clamp(max=8).exp() * at[:, 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def iou(a, b):
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    both = (high - low).clamp(min=0).prod(-1)
    area = lambda v: (v[..., 2:] - v[..., :2]).clamp(min=0).prod(-1)
    return both / (area(a) + area(b) - both).clamp(min=1e-6)


def detector_loss(raw, truth, at):
    """`truth` [B, 4] corners, all 0 without a figure. Places in the middle of the figure, on the level of its size, shall find it."""
    side = (truth[:, 2:] - truth[:, :2]).prod(1).clamp(min=0).sqrt()
    middle = (truth[:, :2] + truth[:, 2:]) / 2
    low, high = at[:, 2] * 2.2, at[:, 2] * 5.5
    low[at[:, 2] == STRIDES[0]], high[at[:, 2] == STRIDES[-1]] = 1.0, 1e9
    fits = (side[:, None] >= low) & (side[:, None] <= high)
    off = ((at[:, :2] + 0.5) * at[:, 2:] - middle[:, None]).abs().amax(2) / at[:, 2]
    found = fits & (off < 1.5)
    count = found.sum().clamp(min=1)
    obj = F.binary_cross_entropy_with_logits(raw[..., 4], found.float(), reduction="sum") / count
    row, place = found.nonzero(as_tuple=True)
    mine, goal = raw[row, place], truth[row]
    cls = F.binary_cross_entropy_with_logits(mine[:, 5], torch.ones(len(row)))
    stride = at[place, 2:]
    size = (goal[:, 2:] - goal[:, :2]) / stride
    encoded = torch.cat([middle[row] / stride - at[place, :2], size.clamp(min=1e-3).log()], 1)
    distance = F.smooth_l1_loss(mine[:, :4], encoded, beta=0.1)
    overlap = iou(boxes(mine, at[place]), goal)
    return obj + 0.5 * cls + distance + 3 * (1 - overlap).mean()


# ---- estimator ----

SIGMA = 3.0  # bins; two bins a pixel
SHARP = 10.0
REACH = 10  # bins


def weights():
    """How much each keypoint counts."""
    w = torch.ones(POINTS)
    w[:17], w[17:23], w[23:91], w[91:] = 6.0, 3.0, 0.6, 1.0
    return w / w.mean()


def estimator_loss(outputs, points, each):
    """Raw values shall be bell curves as high as the joints' scores: their largest is then the score that the engine reads.

    `points` [B, K, 3] in pixels of the crop. Squares alone learn slowly where a joint is; the divergence of sharpened curves
    (softmax of SHARP times the values) helps, and has the same optimum. Curves are 0 beyond REACH, so most bins need no exponential.
    """
    loss = 0.0
    around = torch.arange(-REACH, REACH + 1)
    for axis, raw in enumerate(outputs):
        raw, bins = raw.float(), raw.shape[-1]
        place, score = 2 * points[..., axis, None], points[..., 2, None]
        near = place.round().long() + around
        inside = (near >= 0) & (near < bins)
        curve = score * torch.exp(-((near - place) ** 2) / (2 * SIGMA**2)) * inside
        mine = raw.gather(-1, near.clamp(0, bins - 1))
        square = raw.square().sum(-1) + (curve * (curve - 2 * mine)).sum(-1)
        above = torch.expm1(SHARP * curve)
        total = bins + above.sum(-1)
        entropy = SHARP * ((above + 1) * curve).sum(-1) / total - total.log()
        apart = torch.logsumexp(SHARP * raw, -1) - SHARP * (raw.sum(-1) + (above * mine).sum(-1)) / total + entropy
        loss = loss + ((square + 0.7 * apart * points[..., 2]) * each).mean()
    return loss


class Maps(torch.nn.Module):
    """Helpers of training, thrown away after it: on the last two stages, where each joint is among the cells, and where in its cell.

    The head alone sees a dozen numbers a joint and would have to find out by itself what they could mean.
    """

    STRIDES = (16, 32)

    def __init__(self, width):
        super().__init__()
        self.convs = torch.nn.ModuleList([torch.nn.Conv2d(width * c, 3 * POINTS, 1) for c in (8, 16)])
        for conv in self.convs:
            torch.nn.init.normal_(conv.weight, 0, 0.01)
            torch.nn.init.zeros_(conv.bias)

    def loss(self, features, points, each):
        loss = 0.0
        for conv, x, stride in zip(self.convs, features, self.STRIDES):
            maps = conv(x).float().unflatten(1, (3, POINTS))
            h, w = maps.shape[-2:]
            place = (points[..., :2] + 0.5) / stride - 0.5
            off_x = (place[..., 0, None] - torch.arange(w))[:, :, None, :].expand(-1, -1, h, w)
            off_y = (place[..., 1, None] - torch.arange(h))[:, :, :, None].expand(-1, -1, h, w)
            curve = points[..., 2, None, None] * torch.exp(-(off_x**2 + off_y**2) / 1.5)
            square = ((maps[:, 0] - curve) ** 2).sum((2, 3))
            near = curve * (curve > 0.3)
            apart = ((maps[:, 1] - off_x).abs() + (maps[:, 2] - off_y).abs()) * near
            loss = loss + ((square + 0.5 * apart.sum((2, 3))) * each).mean()
        return loss


# ---- files ----


def save(net, path, side=None):
    """f16 safetensors, statistics of norms in f32; the detector's input size stands in the metadata."""
    state = {}
    for name, tensor in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            kind = torch.float32 if ".running_" in name else torch.float16
            state[name] = tensor.detach().to(kind).contiguous()
    if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
        raise ValueError(f"{path}: some weights are beyond f16")
    save_file(state, path, metadata={"input_size": f"{side}x{side}"} if side else None)
