"""Surfaces of a puppet as small flat faces: tubes, lofts, ellipsoids and discs, gathered for one painting by depth.

A grid of points [..., R, S, 3] has rings from the top of a part downwards and points around each ring from its front to its
left, so that the faces seen from outside run clockwise in a picture.
"""

import numpy as np


class Mesh:
    """Faces in world coordinates with a colour each."""

    def __init__(self):
        self.groups = {}  # corners of a face -> lists of points, colours, depth biases, two-sidedness, gloss

    def faces(self, points, colour, bias=0.0, double=False, flat=False):
        """Adds faces [N, K, 3]; `colour` is one RGB or [N, 3]; `flat` ones are not shaded, `double` ones seen from both sides."""
        points = np.asarray(points, dtype=np.float64)
        n = len(points)
        colours = np.broadcast_to(np.asarray(colour, dtype=np.float64), (n, 3))
        self.groups.setdefault(points.shape[1], []).append(
            (points, colours, np.full(n, bias), np.full(n, double), np.full(n, flat))
        )

    def grid(self, points, colour, bias=0.0, double=False, closed=True):
        """Adds the surface through a grid; `colour` is one RGB or one per face [..., R-1, S, 3]."""
        g = np.asarray(points)
        right = np.roll(g, -1, axis=-2) if closed else g[..., 1:, :]
        left = g if closed else g[..., :-1, :]
        quads = np.stack([left[..., :-1, :, :], right[..., :-1, :, :], right[..., 1:, :, :], left[..., 1:, :, :]], axis=-2)
        colour = np.asarray(colour, dtype=np.float64)
        colour = np.broadcast_to(colour, quads.shape[:-2] + (3,)).reshape(-1, 3)
        self.faces(quads.reshape(-1, 4, 3), colour, bias, double)


def around(count, start=0.0, stop=2 * np.pi, closed=True):
    """Sines and cosines of the angles around a ring."""
    angle = np.linspace(start, stop, count + (0 if closed else 1), endpoint=not closed)
    return np.sin(angle), np.cos(angle)


def loft(centres, frames, wide, deep, count=20, square=2.0):
    """Rings [R, S, 3] about centres [R, 3]; frames [R, 3, 3] give left (column 0) and front (column 2); half sizes [R]."""
    s, c = around(count)
    if square != 2.0:
        norm = (np.abs(s) ** square + np.abs(c) ** square) ** (1 / square)
        s, c = s / norm, c / norm
    left = np.asarray(wide)[:, None, None] * s[None, :, None] * frames[:, None, :, 0]
    front = np.asarray(deep)[:, None, None] * c[None, :, None] * frames[:, None, :, 2]
    return np.asarray(centres)[:, None, :] + left + front


_CAP = np.radians([1, 32, 62])


def limb(start, end, frame, radii, rings=4, count=12, caps=(True, True), bulge=0.0):
    """A tube from start to end (the frame's -y), round at both ends; `radii` at the ends, `bulge` the share added between."""
    length = float(np.linalg.norm(end - start))
    r0, r1 = radii
    t = np.linspace(0, 1, rings)
    along, radius = [length * t], [(r0 + (r1 - r0) * t) * (1 + bulge * np.sin(np.pi * t) ** 2)]
    if caps[0]:
        along.insert(0, -r0 * np.cos(_CAP)), radius.insert(0, r0 * np.sin(_CAP))
    if caps[1]:
        along.append(length + r1 * np.cos(_CAP[::-1])), radius.append(r1 * np.sin(_CAP[::-1]))
    along, radius = np.concatenate(along), np.concatenate(radius)
    centres = start - along[:, None] * frame[:, 1]
    return loft(centres, np.broadcast_to(frame, (len(along), 3, 3)), radius, radius, count)


def fingers(points, frame, radius, count=6):
    """Five fingers [5, R, S, 3] along joints [5, 4, 3]; the frame is the hand's."""
    tips = points[:, 3] + 0.5 * radius * _unit(points[:, 3] - points[:, 2])
    path = np.concatenate([points[:, :1], points, tips[:, None]], 1)
    size = radius * np.array([0.5, 1.0, 0.98, 0.92, 0.82, 0.4])
    along = np.gradient(path, axis=1)
    down = _unit(along)
    front = frame[:, 2] - (down @ frame[:, 2])[..., None] * down
    front = _unit(front + 1e-6)
    left = np.cross(-down, front)
    s, c = around(count)
    return path[:, :, None] + size[None, :, None, None] * (s[:, None] * left[:, :, None] + c[:, None] * front[:, :, None])


def ellipsoid(centre, frame, radii, lower, count=24, rings=10, upper=0.02, taper=0.0, start=0.0, stop=2 * np.pi, closed=True):
    """The part of an ellipsoid between polar angles `upper` and `lower` (radians from the top; `lower` may vary around)."""
    s, c = around(count, start, stop, closed)
    lower = np.broadcast_to(np.asarray(lower, dtype=np.float64), s.shape)
    theta = upper + (lower - upper) * np.linspace(0, 1, rings)[:, None]
    y = np.cos(theta)
    local = np.stack([radii[0] * np.sin(theta) * s * jaw(-y, taper), radii[1] * y, radii[2] * np.sin(theta) * c], -1)
    return centre + local @ frame.T


def jaw(v, taper):
    """How wide the head is at height v (-1 top, 1 chin) against an ellipsoid."""
    return 1 - taper * np.clip(v, 0, 1) ** 1.5


def disc(centre, a, b, count=12):
    """A flat ellipse [1, K, 3] with half axes a and b (vectors)."""
    s, c = around(count)
    return (centre + s[:, None] * a + c[:, None] * b)[None]


def _unit(v):
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-12)
