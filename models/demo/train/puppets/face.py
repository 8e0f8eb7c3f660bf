"""Faces: 68 landmarks on the head's surface, and the features painted along them."""

import numpy as np

from .mesh import jaw


def surface(joints, t, uv, lift=0.0):
    """Points on the head at (u, v) seen from the front (u to the puppet's left, v down, outline at radius 1): [N, 3]."""
    rx_, ry_, rz_ = joints.proportions.head
    uv = np.asarray(uv, dtype=np.float64)
    u, v = uv[:, 0], uv[:, 1]
    z = np.sqrt(np.clip(1 - u**2 - v**2, 0, 1))
    local = np.stack([rx_ * u * jaw(v, joints.proportions.chin), -ry_ * v, rz_ * z], 1) * (1 + lift)
    return joints.skull[t] + local @ joints.head_frame[t].T


def normals(joints, t, uv):
    """Outward directions there, close enough to tell front from back: [N, 3]."""
    uv = np.asarray(uv, dtype=np.float64)
    z = np.sqrt(np.clip(1 - (uv**2).sum(1), 0, 1))
    r = joints.proportions.head
    local = np.stack([uv[:, 0] / r[0], -uv[:, 1] / r[1], z / r[2]], 1)
    local /= np.linalg.norm(local, axis=1, keepdims=True)
    return local @ joints.head_frame[t].T


EYE = (0.36, 0.06)  # of the puppet's left eye
EAR = (1.0, 0.10)


def landmarks(mouth, smile, blink, brow):
    """The 68 face points as (u, v) [68, 2] in COCO-WholeBody order: the person's right side comes first."""
    p = np.zeros((68, 2))
    a = np.radians(np.linspace(172, 8, 17))
    p[:17] = np.stack([0.97 * np.cos(a), 0.06 + 0.90 * np.sin(a)], 1)
    x = np.linspace(0.58, 0.17, 5)
    y = -0.21 - 0.06 * np.sin(np.linspace(0.2, np.pi - 0.4, 5)) - 0.05 * brow
    p[17:22], p[22:27] = np.stack([-x, y], 1), np.stack([x[::-1], y[::-1]], 1)
    p[27:31] = np.stack([np.zeros(4), np.linspace(0.02, 0.28, 4)], 1)
    p[31:36] = np.stack([np.linspace(-0.12, 0.12, 5), 0.34 + 0.03 * np.sin(np.linspace(0, np.pi, 5))], 1)
    open_ = 0.18 * (1 - 0.92 * blink)
    ring = np.radians([180, 120, 60, 0, -60, -120])
    eye = np.stack([0.15 * np.cos(ring), -open_ * np.sin(ring)], 1)
    p[36:42], p[42:48] = eye + (-EYE[0], EYE[1]), eye + EYE
    outer, inner = np.radians(180 - 30.0 * np.arange(12)), np.radians(180 - 45.0 * np.arange(8))
    for rows, angle, wide, tall in (
        (slice(48, 60), outer, 0.30, 0.040 + 0.15 * mouth),
        (slice(60, 68), inner, 0.25, 0.006 + 0.13 * mouth),
    ):
        u = wide * (1 - 0.25 * mouth + 0.06 * smile) * np.cos(angle)
        p[rows] = np.stack([u, 0.57 - tall * np.sin(angle) - 1.7 * smile * u**2 + 0.06 * smile], 1)
    return p


def features(look_colours, points, joints, t, state):
    """The painted features as (points [1, K, 3], colour, depth bias, outward direction) in painting order."""
    skin, hair, iris = look_colours
    out = []
    bias = 0.02

    def add(uv, colour, step, lift=0.004):
        facing = normals(joints, t, uv).mean(0)
        out.append((surface(joints, t, uv, lift)[None], np.asarray(colour, float), bias + 0.002 * step, facing))

    def ring(u, v, a, b, n=14):
        angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
        return np.stack([u + a * np.cos(angle), v + b * np.sin(angle)], 1)

    def stroke(line, width):
        line = np.asarray(line)
        along = np.gradient(line, axis=0)
        across = np.stack([-along[:, 1], along[:, 0]], 1) / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
        taper = width * np.sin(np.linspace(0.35, np.pi - 0.35, len(line)))[:, None]
        return np.concatenate([line + across * taper, (line - across * taper)[::-1]])

    for side in (-1, 1):
        add(ring(0.56 * side, 0.40, 0.14, 0.10), skin * 0.86 + np.array((232, 90, 90)) * 0.14, 0)
    shut = state["blink"]
    for first, side in ((36, -1), (42, 1)):
        middle = points[first : first + 6].mean(0)
        tall = 0.18 * (1 - 0.92 * shut)
        if shut < 0.75:
            add(ring(*middle, 0.16, tall * 1.04), (250, 250, 248), 1)
            add(ring(middle[0] - 0.012 * side, middle[1] + 0.008, 0.105, min(tall * 0.92, 0.13)), iris, 2)
            add(ring(middle[0] - 0.012 * side, middle[1] + 0.008, 0.062, min(tall * 0.7, 0.08)), (22, 18, 24), 3)
            add(ring(middle[0] + 0.025, middle[1] - 0.04, 0.028, min(0.032, tall * 0.3), 8), (255, 255, 255), 4)
        lid = ring(*middle, 0.17, tall * 1.1, 16)
        add(stroke(lid[8:], 0.026), hair * 0.35 + 12, 5)
    for rows in (slice(17, 22), slice(22, 27)):
        add(stroke(points[rows], 0.034), hair * 0.62, 5)
    nose = np.array([[-0.085, 0.31], [-0.05, 0.36], [0, 0.375], [0.05, 0.36], [0.085, 0.31]])
    add(stroke(nose, 0.024), skin * 0.72, 3)
    add(points[48:60], np.array((186, 52, 62)) * 0.82 + skin * 0.15, 4)
    if state["mouth"] > 0.12:
        add(points[60:68], (92, 26, 34), 5)
        teeth = points[60:65].copy()
        add(np.concatenate([teeth, teeth[::-1] * (0.9, 1.0) + (0, 0.05 * state["mouth"] + 0.012)]), (250, 248, 244), 6)
    return out
