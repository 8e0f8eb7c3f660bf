"""Writes crates/pose/tests/fixtures/prepost/{official,onnx}.safetensors: DWPose without its networks.

    python -m venv /tmp/venv && /tmp/venv/bin/pip install torch==2.13.0 opencv-python-headless==5.0.0.93 numpy safetensors
    /tmp/venv/bin/python tests/reference/make_pose_prepost.py

The networks' outputs are made up: boxes in clusters with equal scores among them, and SimCC logits from a hash. Pictures
come from the same hash (`pixels`, `logits`; the Rust test repeats both), so that neither fills the file.

Everything else is done as the programs do it: cv2 resizes and warps, torch sigmoids, candidates of all classes with the low
threshold first, class-wise suppression, f64 instead of f32 after the networks (`worst_f32` says what that changes).

Per case `N` (role 1 is the reference picture):
    N.picture     [4] i64           width, height, seed, role
    N.rows        [n] i64           candidates that are not background
    N.raw         [n, 5 + 4] f32    their raw detector output; every other row is BACKGROUND
    N.letterbox   [38, 38, 3] u8    every 17th pixel of the detector's input, channels as it sees them
    N.boxes       [p, 5] f64        people in pixels of the picture: x1 y1 x2 y2 score
    N.crops       [r, 43, 32, 3] u8 every 9th pixel of the keypoint network's input before it is normalised, r = min(q, 2)
    N.keypoints   [q, 133, 3] f64   x y score in pixels of the picture; q = p, or 1 for a picture without people
"""
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.numpy import save_file

CLASSES = 4
BACKGROUND = np.array([0, 0, 0, 0, -9] + [-9] * CLASSES, np.float32)
MEAN = np.array([123.675, 116.28, 103.53])
STD = np.array([58.395, 57.12, 57.375])
OUT = Path(__file__).parents[2] / "crates/pose/tests/fixtures/prepost"

# Width, height, people, role. Growing and shrinking for both profiles, a side that is rounded, nobody, the reference.
CASES = [(160, 120, 3, 0), (75, 200, 1, 0), (1281, 721, 4, 0), (1030, 1100, 2, 0), (1500, 1400, 3, 0), (333, 222, 0, 0),
         (864, 1184, 1, 1), (1, 1, 1, 0)]


def mix(n):
    """Murmur3's finaliser on uint32."""
    n = np.asarray(n, np.uint64)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        n = ((n ^ (n >> np.uint64(shift))) * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    return n ^ (n >> np.uint64(16))


def pixels(width, height, seed):
    """RGB: ramps that wrap, with noise on them."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    index = (y * width + x) * 3 + c
    ramp = (x * 3 + y * 5 + c * 80) & 255
    return ((ramp * 3 >> 2) + (mix((index + seed * 7919) & 0xFFFFFFFF).astype(np.int64) & 63)).astype(np.uint8)


def logits(seed, person, twin, axis, bins):
    """[133, bins] f32 in -1..1 with many equal maxima; every seventh row has no logit above 0."""
    start = ((seed * 64 + person) * 2 + twin) * 2 + axis
    n = (np.arange(133 * bins) + start * 1_000_003) & 0xFFFFFFFF
    values = (mix(n) % np.uint64(257)).astype(np.float32) / np.float32(128) - np.float32(1)
    values = values.reshape(133, bins)
    values[3::7] -= np.float32(1.25)
    return values


def clusters(rng, people, inner):
    """Raw rows: for each person (and some other things) boxes from several cells of several strides around one box."""
    w, h = inner
    found = {}
    for thing in range(people + 2 if people else 1):
        is_person = thing < people
        box_w, box_h = rng.uniform(0.15, 0.6) * w + 2, rng.uniform(0.3, 0.9) * h + 2
        cx, cy = rng.uniform(0.1, 0.9) * w, rng.uniform(0.2, 0.8) * h
        tie = rng.uniform(0.5, 3, 2)
        for _ in range(14):
            level = rng.integers(3)
            stride = (8, 16, 32)[level]
            side = 640 // stride
            gx = int(np.clip((cx + rng.normal() * stride) // stride, 0, side - 1))
            gy = int(np.clip((cy + rng.normal() * stride) // stride, 0, side - 1))
            index = (0, 6400, 8000)[level] + gy * side + gx
            jitter = rng.normal(0, 0.07, 4) * (box_w, box_h, 1, 1)
            row = BACKGROUND.copy()
            row[:4] = ((cx + jitter[0]) / stride - gx, (cy + jitter[1]) / stride - gy,
                       np.log(box_w / stride) + jitter[2], np.log(box_h / stride) + jitter[3])
            equal = rng.random() < 0.4
            row[4] = tie[0] if equal else rng.uniform(-3, 4)
            label = 0 if is_person else int(rng.integers(1, CLASSES))
            row[5 + label] = tie[1] if equal else rng.uniform(-3, 4)
            if people and rng.random() < 0.3:  # two classes at once
                row[5 + rng.integers(CLASSES)] = rng.uniform(-2, 3)
            found[index] = row
    index = np.array(sorted(found))
    return index, np.stack([found[i] for i in index])


def decode(raw, kind):
    """cx cy w h in the letterbox."""
    grid = []
    for stride in (8, 16, 32):
        side = 640 // stride
        gy, gx = np.mgrid[0:side, 0:side]
        grid.append(np.stack([gx.ravel(), gy.ravel(), np.full(side * side, stride)], 1))
    grid = np.concatenate(grid).astype(kind)
    raw = raw.astype(kind)
    centre = (raw[:, :2] + grid[:, :2]) * grid[:, 2:]
    return np.concatenate([centre, np.exp(raw[:, 2:4]) * grid[:, 2:]], 1)


def corners(b):
    return np.concatenate([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], 1)


def greedy(boxes, scores, threshold, one):
    """Indices kept, best first; equal scores in order of index."""
    order = list(np.argsort(-scores, kind="stable"))
    size = boxes[:, 2:] - boxes[:, :2] + one
    area = size[:, 0] * size[:, 1]
    keep = []
    while order:
        best = order.pop(0)
        keep.append(best)
        rest = np.array(order, int)
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        inter = np.prod(np.maximum(high - low + one, 0), 1)
        overlap = inter / (area[best] + area[rest] - inter)
        order = list(rest[overlap <= threshold])
    return np.array(keep, int)


def sigmoid(x, kind):
    return torch.from_numpy(np.ascontiguousarray(x.astype(kind))).sigmoid().numpy()


def official_boxes(raw, size, inner, kind):
    (w, h), (iw, ih) = size, inner
    boxes = corners(decode(raw, kind)) / np.array([iw / w, ih / h] * 2, kind)
    classes, objectness = sigmoid(raw[:, 5:], kind), sigmoid(raw[:, 4], kind)
    label, scores = classes.argmax(1), classes.max(1) * objectness
    valid = scores >= 0.01
    boxes, label, scores = boxes[valid], label[valid], scores[valid]
    # Boxes of different classes are moved apart, then suppressed together.
    apart = boxes + label[:, None] * (np.abs(boxes).max() * 4 + 1 if len(boxes) else 0)
    keep = greedy(apart, scores, 0.65, 0)
    keep = keep[(label[keep] == 0) & (scores[keep] > 0.5)]
    boxes, scores = boxes[keep], scores[keep]
    keep = greedy(boxes, scores, 0.7, 1)
    return np.concatenate([boxes[keep], scores[keep, None]], 1)


def onnx_boxes(raw, size, _inner, kind):
    w, h = size
    boxes = corners(decode(raw, kind)) / kind(min(640 / h, 640 / w))
    scores = sigmoid(raw[:, 5:], kind) * sigmoid(raw[:, 4:5], kind)
    kept = []
    for label in range(CLASSES):
        valid = np.where(scores[:, label] > 0.1)[0]
        for i in valid[greedy(boxes[valid], scores[valid, label], 0.45, 1)]:
            if label == 0 and scores[i, 0] > 0.3:
                kept.append(np.append(boxes[i], scores[i, 0]))
    return np.array(kept, kind).reshape(-1, 5)


def warp(image, box, kind):
    """Crop of 288x384, centre, size."""
    low, high = box[:2].astype(kind), box[2:4].astype(kind)
    centre, size = (low + high) * kind(0.5), (high - low) * kind(1.25)
    w, h = size
    size = np.array([w, w / 0.75] if w > h * 0.75 else [h * 0.75, h], kind)
    half = size[0] / 2
    source = np.array([centre, centre - (0, half), centre - (half, half)], np.float32)
    target = np.array([(144, 192), (144, 48), (0, 48)], np.float32)
    # getAffineTransform takes f32 points; with the exact ones a scale and a shift are all there is.
    k = 288 / size[0]
    exact = np.array([[k, 0, 144 - k * centre[0]], [0, k, 192 - k * centre[1]]], np.float64)
    matrix = exact if kind is np.float64 else cv2.getAffineTransform(source, target)
    return cv2.warpAffine(image, matrix, (288, 384), flags=cv2.INTER_LINEAR), centre, size


def flip_table():
    """The point on the other side, from the names of COCO-WholeBody's parts."""
    pairs = [(i, i + 1) for i in range(1, 17, 2)] + [(17 + i, 20 + i) for i in range(3)]
    face = [(i, 16 - i) for i in range(8)] + [(17 + i, 26 - i) for i in range(5)] + [(31, 35), (32, 34)]
    face += [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]
    face += [(48, 54), (49, 53), (50, 52), (59, 55), (58, 56), (60, 64), (61, 63), (67, 65)]
    pairs += [(23 + a, 23 + b) for a, b in face] + [(91 + i, 112 + i) for i in range(21)]
    table = np.arange(133)
    for a, b in pairs:
        table[a], table[b] = b, a
    return table


def keypoints(seed, person, flip, centre, size, kind):
    x, y = logits(seed, person, 0, 0, 576), logits(seed, person, 0, 1, 768)
    if flip:
        table = flip_table()
        x = (x + logits(seed, person, 1, 0, 576)[table][:, ::-1]) * np.float32(0.5)
        y = (y + logits(seed, person, 1, 1, 768)[table]) * np.float32(0.5)
    place = np.stack([x.argmax(1), y.argmax(1)], 1).astype(kind)
    score = np.minimum(x.max(1), y.max(1))
    place[score <= 0] = -1
    place /= 2
    place = place / np.array([288, 384], kind) * size + centre - kind(0.5) * size
    return np.concatenate([place, score[:, None].astype(kind)], 1)


def seen_by_official(bgr, role):
    """The frame after detect_resize, which starts with a swap, and what 1024 makes of it."""
    if role == 1:
        h, w = bgr.shape[:2]
        area, aspect = 1024 * 576, h / w
        side = lambda v: round(np.sqrt(v) // 16) * 16
        bgr = cv2.resize(bgr, (side(area / aspect), side(area * aspect)), interpolation=cv2.INTER_CUBIC)
    image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    h, w = image.shape[:2]
    k = 1024 / min(h, w)
    side = lambda v: int(np.round(v * k / 64)) * 64
    return cv2.resize(image, (side(w), side(h)), interpolation=cv2.INTER_CUBIC if k > 1 else cv2.INTER_AREA)


def run(profile):
    official = profile == "official"
    tensors, worst = {}, 0.0
    for case, (w, h, people, role) in enumerate(CASES):
        seed = case + (100 if official else 200)
        rng = np.random.default_rng(seed)
        bgr = np.ascontiguousarray(pixels(w, h, seed)[..., ::-1])
        seen = seen_by_official(bgr, role) if official else bgr
        sh, sw = seen.shape[:2]
        fit = min(640 / sh, 640 / sw)
        iw, ih = (int(sw * fit + 0.5), int(sh * fit + 0.5)) if official else (int(sw * fit), int(sh * fit))
        letterbox = np.full((640, 640, 3), 114, np.uint8)
        letterbox[:ih, :iw] = cv2.resize(seen, (iw, ih), interpolation=cv2.INTER_LINEAR)
        rows, values = clusters(rng, people, (iw, ih))
        raw = np.tile(BACKGROUND, (8400, 1))
        raw[rows] = values
        results = []
        for kind in (np.float64, np.float32):
            boxes = (official_boxes if official else onnx_boxes)(raw, (sw, sh), (iw, ih), kind)
            found = boxes if len(boxes) else np.array([[0, 0, sw, sh, 0]], kind)
            # DWPose's preprocessor swaps channels in the official program, the ONNX one does not.
            crops, points = [], []
            for person, box in enumerate(found):
                crop, centre, size = warp(seen, box, kind)
                crops.append(crop[..., ::-1] if official else crop)
                points.append(keypoints(seed, person, official, centre, size, kind))
            points = np.stack(points)
            points[..., :2] *= np.array([w / sw, h / sh], kind)
            boxes[:, :4] *= np.array([w / sw, h / sh] * 2, kind)
            results.append((boxes, np.stack(crops), points))
        (boxes, crops, points), (boxes32, _, points32) = results
        assert boxes.shape == boxes32.shape, "f32 chooses other boxes"
        worst = max(worst, np.abs(points - points32)[..., :2].max(), np.abs(boxes - boxes32).max(initial=0))
        tensors |= {
            f"{case}.picture": np.array([w, h, seed, role]), f"{case}.rows": rows, f"{case}.raw": values,
            f"{case}.letterbox": letterbox[::17, ::17], f"{case}.boxes": boxes,
            f"{case}.crops": crops[:2, ::9, ::9], f"{case}.keypoints": points,
        }
        print(profile, case, (w, h), "seen", (sw, sh), "candidates", len(rows), "people", len(boxes))
    tensors["worst_f32"] = np.array([worst])
    print(profile, "f32 moves boxes and keypoints by up to", worst, "px")
    OUT.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, OUT / f"{profile}.safetensors")


for profile in ("official", "onnx"):
    run(profile)
