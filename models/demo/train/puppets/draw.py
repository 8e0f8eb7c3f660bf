"""Draws a puppet: faces of its surfaces painted from the furthest to the nearest, supersampled, with soft light and ink lines."""

from dataclasses import dataclass

import cv2
import numpy as np

from .backdrop import draw_backdrop
from .body import build
from .mesh import disc
from .skeleton import rx

_SHIFT = 4  # fractional bits of OpenCV's points


@dataclass(frozen=True)
class Camera:
    """Parallel projection that looks down by `pitch` degrees; `floor` is the pixel of the world's origin, `scale` pixels a unit."""

    floor: tuple
    scale: float
    pitch: float = 6.0

    def turn(self):
        return rx(self.pitch)

    def project(self, points):
        """Pixels and nearness of points [..., 3]: ([..., 2], [...])."""
        view = np.asarray(points) @ self.turn().T
        xy = np.stack([self.floor[0] + self.scale * view[..., 0], self.floor[1] - self.scale * view[..., 1]], -1)
        return xy, view[..., 2]


def draw(look, joints, t, camera, size, backdrop, face=None, markers=(), grid=3):
    """A picture of pose `t` of `joints` before `backdrop` (RGB uint8 [H, W, 3]); (picture, figure mask [H, W] in 0..255).

    `face` has mouth, smile, blink and brow; `markers` are (world point, colour) of small discs that nothing hides. `grid` is the
    supersampling in each direction.
    """
    width, height = size
    mesh = build(look, joints, t, face or {})
    right, up, _ = camera.turn() * (3.5 / camera.scale)
    for point, tone in markers:
        mesh.faces(disc(np.asarray(point), right, up, 16), tone, bias=9.0, double=True, flat=True)
    points, depth, colours = _shade(mesh, camera, look)
    every = np.concatenate([p.reshape(-1, 2) for p in points])
    margin = 3
    x0, y0 = np.maximum(np.floor(every.min(0)).astype(int) - margin, 0)
    x1, y1 = np.minimum(np.ceil(every.max(0)).astype(int) + margin, (width, height))
    image = _with_shadow(backdrop, joints, t, camera, look)
    mask = np.zeros((height, width), np.uint8)
    if x1 > x0 and y1 > y0:
        colour, cover = _paint(points, depth, colours, (x0, y0, x1, y1), camera.scale, look, grid)
        patch = image[y0:y1, x0:x1]
        out = colour + patch * (1 - cover[..., None] * np.float32(1 / 255))
        image[y0:y1, x0:x1] = np.minimum(out + 0.5, 255).astype(np.uint8)
        mask[y0:y1, x0:x1] = np.minimum(cover + 0.5, 255).astype(np.uint8)
    return image, mask


def stage(look, camera, size):
    """The backdrop of a look for a camera: the floor begins a little behind the puppet."""
    return draw_backdrop(
        look["backdrop"], size, camera.floor[1] - (0.07 + 0.012 * camera.pitch) * camera.scale, look["light"]["tint"]
    )


def _shade(mesh, camera, look):
    """Pixels, nearness and lit colours of the faces that are seen, as lists by corner count."""
    turn = camera.turn()
    light = np.array(look["light"]["from"])
    light = light / np.linalg.norm(light)
    contrast, tint = look["light"]["contrast"], np.array(look["light"]["tint"])
    all_points, all_depth, all_colours = [], [], []
    for parts in mesh.groups.values():
        corners = np.concatenate([p[0] for p in parts])
        colours, bias, double, flat = (np.concatenate([p[k] for p in parts]) for k in (1, 2, 3, 4))
        view = corners @ turn.T
        k = view.shape[1]
        a, b = (
            (view[:, 2] - view[:, 0], view[:, 3] - view[:, 1])
            if k == 4
            else (view[:, k // 3] - view[:, 0], view[:, 2 * k // 3] - view[:, 0])
        )
        normal = np.cross(b, a)
        size = np.sqrt((normal * normal).sum(1))
        keep = ((normal[:, 2] > 0) | double) & (size > 1e-12)
        view, normal, colours, bias, flat = view[keep], normal[keep] / size[keep, None], colours[keep], bias[keep], flat[keep]
        inside = normal[:, 2] < 0
        normal = np.where(inside[:, None], -normal, normal)
        lit = normal @ light
        shade = 1.03 - contrast + contrast * (0.5 + 0.5 * lit) ** 1.3 - 0.10 * (1 - normal[:, 2]) ** 2 - 0.22 * inside
        shade = np.where(flat, 1.0, shade)[:, None]
        tone = colours * shade
        tone += np.where(flat, 0.0, 10 * np.clip(lit - 0.82, 0, 1) / 0.18)[:, None]
        all_colours.append(np.clip(tone * tint, 0, 255))
        all_points.append(
            np.stack([camera.floor[0] + camera.scale * view[..., 0], camera.floor[1] - camera.scale * view[..., 1]], -1)
        )
        all_depth.append(view[..., 2].mean(1) + bias)
    return all_points, all_depth, all_colours


def _paint(points, depth, colours, box, scale, look, grid):
    """Premultiplied colour [h, w, 3] and cover [h, w] (0..255) of the box, as floats."""
    x0, y0, x1, y1 = box
    canvas = np.zeros(((y1 - y0) * grid, (x1 - x0) * grid, 4), np.uint8)
    order = np.argsort(np.concatenate(depth), kind="stable").tolist()
    near = np.clip(np.rint(128 + 170 * np.concatenate(depth)), 1, 255)
    fixed = [np.rint(((p - (x0, y0)) * grid - 0.5) * (1 << _SHIFT)).astype(np.int32) for p in points]
    shapes = [face for group in fixed for face in group]
    tones = np.concatenate([np.concatenate(colours), near[:, None]], 1).tolist()
    fill = cv2.fillConvexPoly
    for i in order:
        fill(canvas, shapes[i], tones[i], cv2.LINE_8, _SHIFT)
    level = np.ascontiguousarray(canvas[..., 3])
    line = max(int(round(0.0042 * scale * grid)), 2)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (line * 2 - 1, line * 2 - 1))
    nearest = cv2.dilate(level, kernel)
    # Ink lies behind an edge of depth: around the figure, and where a limb passes before the body.
    ink = cv2.compare(cv2.subtract(nearest, level), 9, cv2.CMP_GT)
    outer = cv2.compare(level, 0, cv2.CMP_EQ)
    strength = look["light"]["ink"]
    dark = cv2.convertScaleAbs(canvas[..., :3], alpha=1 - strength * 0.8)
    rgb = canvas[..., :3].copy()
    cv2.copyTo(dark, ink, rgb)
    edge = cv2.bitwise_and(ink, outer)
    cv2.copyTo(np.full_like(rgb, (46, 36, 44)), edge, rgb)
    cover = cv2.bitwise_or(cv2.bitwise_not(outer), edge)
    size = (x1 - x0, y1 - y0)
    return (cv2.resize(a.astype(np.float32), size, interpolation=cv2.INTER_AREA) for a in (rgb, cover))


def _with_shadow(backdrop, joints, t, camera, look):
    """A copy of the backdrop with soft shadows of the feet and the body on the floor."""
    image = backdrop.copy()
    height, width = image.shape[:2]
    soles = [joints.foot[i][t].mean(0) for i in (0, 1)]
    floor = min(0.0, soles[0][1] - 0.01, soles[1][1] - 0.01)
    body = joints.pelvis[t]
    flat = np.sin(np.radians(camera.pitch + 12))
    spots = [((body[0], floor, body[2]), 0.20, 0.30)]
    spots += [((s[0], floor, s[2]), 0.075, 0.42 * np.exp(-max(s[1] - floor, 0) / 0.08)) for s in soles]
    xy, _ = camera.project(np.array([s[0] for s in spots]))
    reach = 0.5 * camera.scale
    x0, x1 = int(max(xy[:, 0].min() - reach, 0)), int(min(xy[:, 0].max() + reach, width))
    y0, y1 = int(max(xy[:, 1].min() - reach * 0.5, 0)), int(min(xy[:, 1].max() + reach * 0.5, height))
    if x1 <= x0 or y1 <= y0:
        return image
    x, y = np.arange(x0, x1, dtype=np.float32)[None] + 0.5, np.arange(y0, y1, dtype=np.float32)[:, None] + 0.5
    light = np.ones((y1 - y0, x1 - x0), np.float32)
    for (cx, cy), (_, radius, strength) in zip(xy, spots):
        r = radius * camera.scale
        light *= 1 - strength * np.exp(-(((x - cx) / r) ** 2)) * np.exp(-(((y - cy) / (r * flat)) ** 2))
    patch = image[y0:y1, x0:x1]
    image[y0:y1, x0:x1] = (patch * light[..., None] + 0.5).astype(np.uint8)
    return image
