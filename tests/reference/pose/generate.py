"""Writes crates/pose/tests/fixtures/raster.jsonl: what OpenCV itself draws for random ellipses, circles, lines and whole
skeletons, as CRC-32 of the image bytes. Versions that wrote the committed file: opencv-python-headless 4.10.0.84,
numpy 2. Usage:

    pip install opencv-python-headless==4.10.0.84 numpy
    python tests/reference/pose/generate.py crates/pose/tests/fixtures/raster.jsonl
    # many more, for a check by hand:
    python tests/reference/pose/generate.py /tmp/raster.jsonl --primitives 30000 --poses 1000 --seed 7
    STEADYDANCE_RASTER_CASES=/tmp/raster.jsonl cargo test -p steadydance-pose --test raster
"""

import argparse
import colorsys
import json
import math
import random
import zlib

import cv2
import numpy as np

COLOUR = (10, 20, 30)
LIMBS = [(1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
         (0, 14), (14, 16), (0, 15), (15, 17)]
FINGERS = [(0 if e % 4 == 0 else e, e + 1) for e in range(20)]
HAND = [tuple(255 * c for c in colorsys.hsv_to_rgb(e / 20, 1, 1)) for e in range(20)]


def wheel():
    """The 18 joint colours: hues at steps of 20 degrees, in OpenCV-free arithmetic."""
    ramp = [0, 85, 170, 255]
    colours = [(255, v, 0) for v in ramp] + [(v, 255, 0) for v in (170, 85, 0)]
    colours += [(0, 255, v) for v in (85, 170, 255)] + [(0, v, 255) for v in (170, 85, 0)]
    colours += [(v, 0, 255) for v in (85, 170, 255)] + [(255, 0, v) for v in (170, 85)]
    return colours


WHEEL = wheel()


def ellipse(canvas, x, y, a, b, angle, colour):
    cv2.fillConvexPoly(canvas, cv2.ellipse2Poly((x, y), (a, b), angle, 0, 360, 1), colour)


def skeleton(people, width, height):
    canvas = np.zeros((height, width, 3), np.uint8)
    scale = np.array([width, height], np.float64)
    for (i, j), colour in zip(LIMBS, WHEEL):
        for p in people:
            if not (p["visible"][i] and p["visible"][j]):
                continue
            (x0, y0), (x1, y1) = np.array(p["body"])[[i, j]] * scale
            length = ((y0 - y1) ** 2 + (x0 - x1) ** 2) ** 0.5
            angle = math.degrees(math.atan2(y0 - y1, x0 - x1))
            ellipse(canvas, int((x0 + x1) / 2), int((y0 + y1) / 2), int(length / 2), 4, int(angle), colour)
    canvas = (canvas * 0.6).astype(np.uint8)
    for i, colour in enumerate(WHEEL):
        for p in people:
            if p["visible"][i]:
                x, y = np.array(p["body"][i]) * scale
                cv2.circle(canvas, (int(x), int(y)), 4, colour, -1)
    for p in people:
        for hand in p["hands"]:
            points = [(int(x), int(y)) for x, y in np.array(hand) * scale]
            for (i, j), colour in zip(FINGERS, HAND):
                if min(points[i] + points[j]) > 0.01:
                    cv2.line(canvas, points[i], points[j], colour, 2)
            for point in points:
                if min(point) > 0.01:
                    cv2.circle(canvas, point, 4, (0, 0, 255), -1)
    return canvas


def primitive(rng):
    width, height = rng.choice([(64, 48), (48, 64), (96, 96), (17, 5), (1, 1), (160, 90)])
    reach = rng.choice([1.0, 1.0, 1.0, 3.0, 30.0, 10000.0])
    x = lambda: int(rng.uniform(-0.5 * reach, 0.5 + 0.5 * reach) * width)
    y = lambda: int(rng.uniform(-0.5 * reach, 0.5 + 0.5 * reach) * height)
    canvas = np.zeros((height, width, 3), np.uint8)
    kind = rng.choice(["ellipse", "ellipse", "circle", "line", "line"])
    if kind == "ellipse":
        angle = rng.choice([rng.randint(-180, 180), rng.randint(-4, 4) * 45])
        values = [x(), y(), int(rng.random() ** 2 * 70 * reach), rng.choice([4, 4, 4, rng.randint(0, 30)]), angle]
        ellipse(canvas, *values, COLOUR)
    elif kind == "circle":
        values = [x(), y(), rng.choice([4, 4, 1, rng.randint(0, 40)])]
        cv2.circle(canvas, tuple(values[:2]), values[2], COLOUR, -1)
    else:
        values = [x(), y(), x(), y()]
        if rng.random() < 0.2:
            values[rng.choice([2, 3])] = values[0 if rng.random() < 0.5 else 1]
        if rng.random() < 0.1:
            values[2:] = values[:2]
        cv2.line(canvas, tuple(values[:2]), tuple(values[2:]), COLOUR, 2)
    return {"size": [width, height], kind: values}, canvas


def person(rng):
    centre, spread = (rng.uniform(-0.1, 1.1), rng.uniform(-0.1, 1.1)), rng.choice([0.1, 0.5, 3.0])
    point = lambda: [round(c + rng.uniform(-spread, spread), 3) for c in centre]
    hidden = lambda: [-1.0, -1.0] if rng.random() < 0.2 else point()
    body = [point() for _ in range(18)]
    for _ in range(rng.randint(0, 3)):  # level and upright limbs, where truncated angles are touchy
        i, j = rng.choice(LIMBS)
        axis = rng.randint(0, 1)
        body[i][axis] = body[j][axis]
    return {
        "body": body,
        "visible": [rng.random() < 0.85 for _ in range(18)],
        "hands": [[hidden() for _ in range(21)] for _ in range(2)],
    }


def pose(rng):
    width, height = rng.choice([(96, 128), (200, 120), (312, 464)])
    people = [person(rng) for _ in range(rng.choice([1, 1, 2]))]
    return {"size": [width, height], "people": people}, skeleton(people, width, height)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output")
    parser.add_argument("--primitives", type=int, default=1200)
    parser.add_argument("--poses", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with open(options.output, "w") as out:
        for make, count in ((primitive, options.primitives), (pose, options.poses)):
            for _ in range(count):
                case, canvas = make(rng)
                case["crc32"] = zlib.crc32(np.ascontiguousarray(canvas).tobytes())
                case["drawn"] = int(canvas.any(axis=-1).sum())
                out.write(json.dumps(case, separators=(",", ":")) + "\n")


main()
