"""How well a pair of pose networks finds held-out puppets, run as the engine runs it (official profile).

    python -m recipe.eval_pose pose ../pose --data HELD_OUT_FRAMES --count 200 [--soft]

Lengths are shares of the figure's height. `--soft` looks at the frames as a small model would have made them: half the size and back,
blurred, a little noise.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file

from . import pose_augment as augment
from . import pose_nets
from .pose_data import Frames

PARTS = {
    "body": range(17),
    "head": range(5),
    "shoulders and hips": (5, 6, 11, 12),
    "elbows and knees": (7, 8, 13, 14),
    "wrists and ankles": (9, 10, 15, 16),
    "feet": range(17, 23),
    "face": range(23, 91),
    "hands": range(91, 133),
}


def opened(net, path):
    state = {name: tensor.float() for name, tensor in load_file(path).items()}
    missing, unknown = net.load_state_dict(state, strict=False)
    if unknown or any(not name.endswith("num_batches_tracked") for name in missing):
        raise ValueError(f"{path}: {unknown or missing} do not fit; the sizes in recipe.pose_nets are others")
    return net.eval()


class Finder:
    """Detector and estimator with all that the engine does around them."""

    def __init__(self, pair, folder):
        sizes = pose_nets.PAIRS[pair]
        self.side, self.crop = sizes["detector"]["side"], sizes["estimator"]["crop"]
        self.detector = opened(pose_nets.detector(**sizes["detector"]), folder / "detector.safetensors")
        self.estimator = opened(pose_nets.estimator(**sizes["estimator"]), folder / "estimator.safetensors")
        self.places = pose_nets.places(self.side)

    def seen(self, picture):
        height, width = picture.shape[:2]
        size = augment.detect_size(width, height)
        how = cv2.INTER_CUBIC if min(width, height) < augment.DETECT_SIDE else cv2.INTER_AREA
        return cv2.resize(picture, size, interpolation=how)

    @torch.no_grad()
    def box(self, seen):
        """The best box in pixels of `seen`, and its score."""
        height, width = seen.shape[:2]
        fit = min(self.side / width, self.side / height)
        inner = int(width * fit + 0.5), int(height * fit + 0.5)
        square = np.full((self.side, self.side, 3), augment.GREY, np.uint8)
        square[: inner[1], : inner[0]] = cv2.resize(seen, inner, interpolation=cv2.INTER_LINEAR)
        raw = self.detector(torch.from_numpy(square).float().permute(2, 0, 1)[None])[0]
        score = raw[:, 4].sigmoid() * raw[:, 5].sigmoid()
        best = int(score.argmax())
        scale = np.tile([inner[0] / width, inner[1] / height], 2)
        return pose_nets.boxes(raw[best : best + 1], self.places[best : best + 1])[0].numpy() / scale, float(score[best])

    @torch.no_grad()
    def keypoints(self, seen, box):
        """[133, 3] in pixels of `seen`."""
        centre, size = augment.window(box, self.crop)
        step, origin = size / (self.crop[1], self.crop[0]), centre - size / 2
        matrix = np.array([[step[0], 0, origin[0]], [0, step[1], origin[1]]])
        how = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
        view = cv2.warpAffine(seen, matrix, (self.crop[1], self.crop[0]), flags=how, borderMode=cv2.BORDER_CONSTANT)
        view = (view[..., ::-1].astype(np.float32) - augment.MEAN) / augment.DEVIATION
        both = torch.from_numpy(np.stack([view, view[:, ::-1]])).permute(0, 3, 1, 2)
        x, y = (a.numpy() for a in self.estimator(both))
        x = 0.5 * (x[0] + x[1][augment.MIRRORED][:, ::-1])
        y = 0.5 * (y[0] + y[1][augment.MIRRORED])
        place = np.stack([x.argmax(1), y.argmax(1)], 1) / 2 * step + origin
        return np.concatenate([place, np.minimum(x.max(1), y.max(1))[:, None]], 1)

    def __call__(self, picture):
        """(box or None, keypoints [133, 3]) in pixels of the picture."""
        seen = self.seen(picture)
        back = np.array(picture.shape[1::-1]) / seen.shape[1::-1]
        box, score = self.box(seen)
        found = score > 0.5
        points = self.keypoints(seen, box if found else np.array([0, 0, *seen.shape[1::-1]], float))
        points[:, :2] *= back
        return box * np.tile(back, 2) if found else None, points


def soft(picture, rng):
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    picture = cv2.GaussianBlur(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), (0, 0), 0.8)
    return np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)


def overlap(a, b):
    if a is None:
        return 0.0
    return float(pose_nets.iou(torch.tensor(a)[None], torch.tensor(b)[None]))


def measure(finder, frames, count, blur):
    rng = np.random.default_rng(7)
    ious, errors, truths, founds = [], [], [], []
    for i in np.linspace(0, len(frames) - 1, count).astype(int):
        picture, mask, truth = frames.picture(i)
        true_box = augment.box_of(mask)
        box, found = finder(soft(picture, rng) if blur else np.ascontiguousarray(picture))
        ious.append(overlap(box, true_box))
        errors.append(np.linalg.norm(found[:, :2] - truth[:, :2], axis=1) / (true_box[3] - true_box[1]))
        far = np.linalg.norm(found[:, :2] - truth[augment.MIRRORED, :2], axis=1) / (true_box[3] - true_box[1])
        apart = np.linalg.norm(truth[augment.MIRRORED, :2] - truth[:, :2], axis=1) / (true_box[3] - true_box[1])
        truths.append(np.stack([truth[:, 2], (apart > 0.1) & (far < 0.5 * errors[-1])], 1))
        founds.append(found[:, 2])
    return np.array(ious), np.array(errors), np.array(truths), np.array(founds)


def table(ious, errors, truths, scores):
    seen = truths[..., 0] > 0.9
    lines = [f"figures found (IoU > 0.5): {(ious > 0.5).mean():.1%}, median IoU {np.median(ious):.3f}, least {ious.min():.3f}", ""]
    lines += ["| joints seen | within 5 % | within 2 % | mean error | median | 95th percentile | left for right |", "|---|---|---|---|---|---|---|"]
    for name, part in PARTS.items():
        mask = np.zeros_like(seen)
        mask[:, list(part)] = True
        e, swapped = errors[seen & mask], truths[..., 1][seen & mask]
        numbers = [(e < 0.05).mean(), (e < 0.02).mean(), e.mean(), np.median(e), np.percentile(e, 95), swapped.mean()]
        lines.append(f"| {name} | " + " | ".join(f"{n:.2%}" for n in numbers) + " |")
    body = np.zeros_like(seen)
    body[:, :17] = True
    hidden, inferred = (truths[..., 0] < 0.2) & body, (abs(truths[..., 0] - 0.45) < 0.05) & body
    lines += ["", "| body joints | mean score | above 0.35 |", "|---|---|---|"]
    for name, mask in (("seen", seen & body), ("inferred", inferred), ("hidden", hidden)):
        lines.append(f"| {name} | {scores[mask].mean():.2f} | {(scores[mask] > 0.35).mean():.1%} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pair", choices=pose_nets.PAIRS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--soft", action="store_true")
    a = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(table(*measure(Finder(a.pair, a.folder), Frames(a.data), a.count, a.soft)))


if __name__ == "__main__":
    main()
