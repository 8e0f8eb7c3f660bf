"""Contact sheet of pairs: python -m puppets.preview OUT.png [--pairs N] [--seed S] [--split held-out]"""

import argparse

import cv2
import numpy as np

from .keypoints import BONES, HANDS
from .pairs import SPLITS, sample_pair

_TIMES = (0.3, 0.55, 0.8, 1.0)
_GAP = 4


def overlay(image, points):
    """A picture with the skeleton of keypoints [133, 3] drawn over it; hidden joints are left out."""
    big = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    place = lambda p: tuple(int(v) for v in np.rint((p[:2] * 2 - 0.5) * 16))
    hues = np.arange(len(BONES)) * 180 // len(BONES)
    tones = cv2.cvtColor(
        np.stack([hues, np.full_like(hues, 255), np.full_like(hues, 255)], 1).astype(np.uint8)[None], cv2.COLOR_HSV2RGB
    )[0]
    for (a, b), tone in zip(BONES, tones.tolist()):
        if min(points[a, 2], points[b, 2]) > 0.35:
            cv2.line(big, place(points[a]), place(points[b]), (20, 20, 20), 5, cv2.LINE_AA, 4)
            cv2.line(big, place(points[a]), place(points[b]), tone, 3, cv2.LINE_AA, 4)
    for hand in HANDS:
        for p in points[hand]:
            if p[2] > 0.35:
                cv2.circle(big, place(p), int(1.6 * 16), (255, 40, 40), -1, cv2.LINE_AA, 4)
    for p in points[:17]:
        if p[2] > 0.35:
            cv2.circle(big, place(p), int(3 * 16), (255, 255, 255), -1, cv2.LINE_AA, 4)
    return cv2.resize(big, image.shape[1::-1], interpolation=cv2.INTER_AREA)


def row(pair):
    """Reference, four driving frames, four truth frames of which two show the condition's skeleton: [H, W, 3]."""
    last = len(pair.driving.joints.neck) - 1
    times = [round(share * last) for share in _TIMES]
    pose, height = pair.pose.keypoints(), pair.reference.size[1]
    driving, truth = [], []
    for t in times:
        image = pair.driving.frame(t)[0]
        driving.append(cv2.resize(image, (round(image.shape[1] * height / image.shape[0]), height), interpolation=cv2.INTER_AREA))
        image = pair.truth.frame(t)[0]
        truth.append(overlay(image, pose[t]) if t in times[1::2] else image)
    cells = [pair.reference.frame(0)[0], *driving, *truth]
    return np.concatenate([np.pad(c, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255) for c in cells], 1)


def main():
    parser = argparse.ArgumentParser(
        description="Contact sheet: reference, four driving frames, four truth frames, two with the skeleton."
    )
    parser.add_argument("out", metavar="OUT.png")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0, help="of the first pair")
    parser.add_argument("--seeds", type=int, nargs="+", help="of each pair, instead of --seed and --pairs")
    parser.add_argument("--split", choices=SPLITS, default="held-out")
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--scale", type=float, default=0.6)
    parser.add_argument("--bits", type=int, default=8, choices=range(4, 9), help="of each colour channel, for a small file")
    options = parser.parse_args()
    seeds = options.seeds or range(options.seed, options.seed + options.pairs)
    draw = lambda seed: row(sample_pair(seed, options.split, driving_size=(208, 288), frames=options.frames))
    rows = [draw(seed) for seed in seeds]
    image = np.concatenate(rows, 0)
    image = cv2.resize(image, None, fx=options.scale, fy=options.scale, interpolation=cv2.INTER_AREA)
    if options.bits < 8:
        # Fewer shades compress far better; rounding them to the nearest keeps the mean.
        step = 256 / 2**options.bits
        image = np.clip(np.rint(image / step) * step, 0, 255).astype(np.uint8)
    if not cv2.imwrite(options.out, image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        raise SystemExit(f"{options.out} could not be written: is its folder there?")


if __name__ == "__main__":
    main()
