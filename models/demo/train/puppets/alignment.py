"""SteadyDancer's alignment of driving keypoints to a reference person: limbs rescaled by lengths measured once, necks joined.

The formulas of the published pipeline for one person (limb scales from the first frame, everything in heights of the picture);
keypoints here are COCO-WholeBody, whose neck is the middle of the shoulders.
"""

import numpy as np

from .keypoints import FACE, HANDS


def align(driving, driving_size, reference, reference_size):
    """Driving keypoints [T, 133, 3] moved onto the reference person [133, 3], in pixels of the reference; sizes are (width, height)."""
    j, ref = driving[..., :2] / driving_size[1], reference[:, :2] / reference_size[1]
    first = j[0]
    distance = lambda k, a, b: np.linalg.norm(k[a] - k[b])
    neck_of = lambda k: (k[..., 5, :] + k[..., 6, :]) / 2
    middle = lambda k: (k[..., 11, :] + k[..., 12, :]) / 2
    scale = lambda *pairs: float(np.mean([distance(ref, a, b) / distance(first, a, b) for a, b in pairs]))
    head = np.linalg.norm(ref[0] - neck_of(ref)) / np.linalg.norm(first[0] - neck_of(first))
    trunk = np.linalg.norm(middle(ref) - neck_of(ref)) / np.linalg.norm(middle(first) - neck_of(first))
    face = [
        (distance(ref, 3 + i, 1 + i) + distance(ref, 1 + i, 0)) / (distance(first, 3 + i, 1 + i) + distance(first, 1 + i, 0))
        for i in (0, 1)
    ]
    shoulder, upper, fore = scale((5, 6)), scale((6, 8), (5, 7)), scale((8, 10), (7, 9))
    thigh, shin = scale((12, 14), (11, 13)), scale((14, 16), (13, 15))
    neck = neck_of(j)
    out = j.copy()
    out[:, 0] = neck + head * (j[:, 0] - neck)
    for i in (0, 1):
        for k in (1 + i, 3 + i):
            out[:, k] = out[:, 0] + face[i] * (j[:, k] - j[:, 0])
        out[:, 5 + i] = neck + shoulder * (j[:, 5 + i] - neck)
        out[:, 7 + i] = out[:, 5 + i] + upper * (j[:, 7 + i] - j[:, 5 + i])
        out[:, 9 + i] = out[:, 7 + i] + fore * (j[:, 9 + i] - j[:, 7 + i])
        hand = (upper + fore) / 2
        out[:, HANDS[i]] = out[:, 9 + i, None] + hand * (j[:, HANDS[i]] - j[:, 9 + i, None])
        out[:, 11 + i] = neck + trunk * (j[:, 11 + i] - neck)
        out[:, 13 + i] = out[:, 11 + i] + thigh * (j[:, 13 + i] - j[:, 11 + i])
        out[:, 15 + i] = out[:, 13 + i] + shin * (j[:, 15 + i] - j[:, 13 + i])
        # Feet and face are never drawn: feet go with the ankle, the face as it is.
        feet = slice(17 + 3 * i, 20 + 3 * i)
        out[:, feet] = out[:, 15 + i, None] + shin * (j[:, feet] - j[:, 15 + i, None])
    out[:, FACE] = j[:, FACE]
    out += neck_of(ref) - neck[0]
    return np.concatenate([out * reference_size[1], driving[..., 2:]], -1)
