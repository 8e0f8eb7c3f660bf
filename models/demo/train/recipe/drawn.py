"""Poses as SteadyDancer sees them: sticks and dots on black, its palette, OpenCV's shapes.

The formulas of the published drawing (one person): 17 limbs as filled ellipses at 60 %, joints as full dots, hands over them, no face
and no feet, channels reversed at the end. The canvas is twice as large as the base size and shrunk with an antialiased bicubic.
"""

import colorsys
import math

import cv2
import numpy as np
from PIL import Image

# OpenPose's 18 joints out of COCO-WholeBody's; None is the neck.
_BODY = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
_LIMBS = ((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17))  # fmt: skip
_PALETTE = ((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85))  # fmt: skip
_FINGERS = tuple((0 if k == 0 else 4 * f + k, 4 * f + k + 1) for f in range(5) for k in range(4))
_FINGER_COLOURS = tuple(tuple(c * 255 for c in colorsys.hsv_to_rgb(e / 20, 1, 1)) for e in range(20))
_DIMMED = (np.arange(256) * 0.6).astype(np.uint8)
SEEN = 0.35
AREA = 256 * 256  # base area of the demo model's canvas (`pose_canvas` of its configuration)


def canvas_size(size, area=AREA):
    """Base size (width, height), multiples of 16, of about `area` pixels in the aspect of `size`."""
    aspect = size[1] / size[0]
    side = lambda x: int(x // 16 * 16)
    return side(math.sqrt(area / aspect)), side(math.sqrt(area * aspect))


def to_openpose(k):
    """COCO-WholeBody [133, 3] -> body [18, 2], its visibility [18], hands [2, 21, 2] (-1 where unseen); pixels."""
    neck = (k[5, :2] + k[6, :2]) / 2
    body = np.stack([neck if j is None else k[j, :2] for j in _BODY])
    seen = np.array([min(k[5, 2], k[6, 2]) > 0.3 if j is None else k[j, 2] > SEEN for j in _BODY])
    hands = np.stack([k[91:112], k[112:133]])
    return body, seen, np.where(hands[..., 2:] < SEEN, -1.0, hands[..., :2])


def draw(body, seen, hands, size):
    """RGB picture [H, W, 3] of `size` (width, height); coordinates are shares of width and height."""
    width, height = size
    canvas = np.zeros((height, width, 3), np.uint8)
    xy = body * (width, height)
    for i, (a, b) in enumerate(_LIMBS):
        if not (seen[a] and seen[b]):
            continue
        (x0, y0), (x1, y1) = xy[a], xy[b]
        middle = (int((x0 + x1) / 2), int((y0 + y1) / 2))
        length = math.hypot(x0 - x1, y0 - y1)
        angle = int(math.degrees(math.atan2(y0 - y1, x0 - x1)))
        cv2.fillConvexPoly(canvas, cv2.ellipse2Poly(middle, (int(length / 2), 4), angle, 0, 360, 1), _PALETTE[i])
    canvas = cv2.LUT(canvas, _DIMMED)
    for i in range(18):
        if seen[i]:
            cv2.circle(canvas, (int(xy[i, 0]), int(xy[i, 1])), 4, _PALETTE[i], -1)
    for hand in hands:
        at = [(int(x * width), int(y * height)) if x >= 0 and y >= 0 else (-1, -1) for x, y in hand]
        for (a, b), colour in zip(_FINGERS, _FINGER_COLOURS):
            if min(*at[a], *at[b]) >= 1:
                cv2.line(canvas, at[a], at[b], colour, 2)
        for x, y in at:
            if x >= 1 and y >= 1:
                cv2.circle(canvas, (x, y), 4, (0, 0, 255), -1)
    return canvas[..., ::-1]


def pose_frames(keypoints, size, negative=None, area=AREA):
    """Frames [T, H, W, 3] of keypoints [T, 133, 3] in pixels of `size`; `negative` is a random generator that distorts each frame."""
    base = canvas_size(size, area)
    out = []
    for k in keypoints:
        body, seen, hands = to_openpose(k)
        body = body / size
        hands = np.where(hands < 0, -1.0, hands / size)
        if negative is not None:
            body, hands = distorted(body, hands, negative)
        picture = draw(body, seen, hands, (2 * base[0], 2 * base[1]))
        out.append(np.asarray(Image.fromarray(picture).resize(size, Image.BICUBIC)))
    return np.stack(out)


def distorted(body, hands, rng):
    """A negative pose: stretched about the neck, x by 0.6 to 1.4 times y's 0.7 to 1.3."""
    rng.uniform(-0.2, 0.2, 2)
    s, a = rng.uniform(0.7, 1.3), rng.uniform(0.6, 1.4)
    scale = np.array([a * s, s])
    shift = body[1] - body[1] * scale
    return body * scale + shift, hands * scale + shift
