"""A puppet's head: skull, features, beard, hair, hat and glasses."""

import numpy as np

from .face import EYE, features, landmarks, surface
from .mesh import around, ellipsoid, limb, loft


def build_head(mesh, look, tone, j, t, state):
    """Adds the neck and the head of pose `t` to a mesh; `tone` has the look's colours, `state` the face's channels."""
    p, frame, skull = j.proportions, j.head_frame[t], j.skull[t]
    rx_, ry_, rz_ = p.head
    girth = look["body"]["neck_girth"]
    top = skull - frame[:, 1] * ry_ * 0.6
    mesh.grid(
        limb(
            top,
            j.neck[t] - 0.01 * j.chest_frame[t][:, 1],
            _toward(j.neck[t] - top, frame),
            (girth, girth * 1.08),
            4,
            12,
            (False, False),
        ),
        tone["skin"] * 0.9,
    )
    state = {"mouth": 0.0, "smile": 0.4, "blink": 0.0, "brow": 0.0} | state
    mesh.grid(ellipsoid(skull, frame, p.head, np.pi - 0.02, 36, 20, taper=p.chin), tone["skin"])
    for s in (1, -1):
        ear = skull + frame @ np.array([s * rx_ * 1.0, -0.10 * ry_, -0.05 * rz_])
        mesh.grid(ellipsoid(ear, frame, (rx_ * 0.13, ry_ * 0.19, rz_ * 0.13), np.pi - 0.05, 10, 6), tone["skin"] * 0.97)
    nose = surface(j, t, [(0, 0.26)])[0]
    mesh.grid(ellipsoid(nose, frame, (rx_ * 0.10, ry_ * 0.10, rz_ * 0.16), np.pi - 0.05, 10, 6), tone["skin"] * 1.01, bias=0.004)
    for points, shade, bias, facing in features(
        (tone["skin"], tone["hair"], np.array(look["eye"], float)),
        landmarks(state["mouth"], state["smile"], state["blink"], state["brow"]),
        j,
        t,
        state,
    ):
        if facing[2] > 0.05:
            mesh.faces(points, shade, bias, double=True, flat=True)
    if look["beard"]:
        rows = ellipsoid(
            skull,
            frame,
            np.array(p.head) * 1.05,
            np.radians(172),
            16,
            6,
            np.radians(108) + 0.16 * np.cos(np.linspace(-1.5, 1.5, 17)),
            p.chin,
            -1.5,
            1.5,
            False,
        )
        mesh.grid(rows, tone["hair"], bias=0.006, double=True, closed=False)
    _hair(mesh, look, tone, j, t)
    _hat(mesh, look, tone, j, t)
    if look["glasses"]:
        for s in (1, -1):
            ring = np.linspace(0, 2 * np.pi, 17)
            outer = np.stack([s * EYE[0] + 0.235 * np.cos(ring), EYE[1] + 0.21 * np.sin(ring)], 1)
            inner = np.stack([s * EYE[0] + 0.19 * np.cos(ring), EYE[1] + 0.165 * np.sin(ring)], 1)
            a, b = surface(j, t, outer, 0.03), surface(j, t, inner, 0.03)
            rim = np.stack([a[:-1], a[1:], b[1:], b[:-1]], 1)
            if frame[2, 2] > -0.1:
                mesh.faces(rim, (40, 38, 46), 0.03, double=True, flat=True)
        if frame[2, 2] > 0:
            bridge = surface(j, t, [(-0.13, EYE[1] - 0.05), (0.13, EYE[1] - 0.05), (0.13, EYE[1]), (-0.13, EYE[1])], 0.04)
            mesh.faces(bridge[None], (40, 38, 46), 0.03, double=True, flat=True)


def _toward(down, frame):
    """A frame whose -y is `down` and whose front stays near the given frame's."""
    y = -down / max(np.linalg.norm(down), 1e-9)
    z = frame[:, 2] - (frame[:, 2] @ y) * y
    z /= np.linalg.norm(z)
    return np.stack([np.cross(y, z), y, z], 1)


def _hair(mesh, look, tone, j, t):
    style = look["hair_style"]
    if style == "bald":
        return
    p, frame, skull = j.proportions, j.head_frame[t], j.skull[t]
    head = np.array(p.head)
    hair = tone["hair"]
    count = 32
    s, c = around(count)
    angle = np.abs(np.arctan2(s, c))  # 0 in front, pi at the back
    # The hairline: high on the forehead, down at the temples, to the nape behind.
    line = np.interp(np.degrees(angle), [0, 30, 55, 75, 95, 130, 180], [50, 52, 60, 86, 98, 122, 128])
    parting = 5 * np.sin(3 * np.arctan2(s, c) + look["seed"] % 5)
    lower = np.radians(line + np.where(angle < 1.0, parting, 0))
    grow = {"afro": 1.0, "short": 1.09, "spiky": 1.07}.get(style, 1.10)
    cap = ellipsoid(skull + frame @ np.array([0, 0.02 * head[1], -0.03 * head[2]]), frame, head * grow, lower, count, 9)
    shade = 1 + 0.05 * np.where(np.arange(count) % 4 < 2, 1, -1)[None, :, None]
    mesh.grid(cap, hair * np.broadcast_to(shade, (8, count, 1)), bias=0.004, double=True)
    back = lambda x, y, z: skull + frame @ (np.array([x, y, z]) * head)
    if style == "afro":
        big = ellipsoid(
            back(0, 0.30, -0.22),
            frame,
            head * (1.42, 1.22, 1.25),
            np.interp(np.degrees(angle), [0, 50, 80, 180], [62, 80, 118, 150]) * np.pi / 180,
            count,
            9,
        )
        mesh.grid(big, hair, bias=-0.01, double=True)
    if style in ("bob", "long"):
        _curtain(mesh, look, hair, j, t, 0.95 if style == "bob" else 2.1)
    if style == "spiky":
        for k in range(14):
            a, b = k * 2.4, np.radians(12 + 4.6 * k)
            way = np.array([np.sin(b) * np.sin(a), np.cos(b), np.sin(b) * np.cos(a)])
            if way[2] > 0.55:
                continue
            tip, base = back(*(way * 1.45)), back(*(way * 0.98))
            axis = _toward(tip - base, frame if abs(way[2]) < 0.9 else frame[:, [2, 0, 1]])
            mesh.grid(limb(base, tip, axis, (0.36 * head[0], 0.03 * head[0]), 3, 8, (False, False)), hair, bias=0.002)
    if style == "bun":
        mesh.grid(ellipsoid(back(0, 1.0, -0.55), frame, head * (0.42, 0.38, 0.42), np.pi - 0.05, 16, 8), hair * 0.94)
    for s_ in {"ponytail": (0,), "pigtails": (1, -1)}.get(style, ()):
        start = back(1.08 * s_, 0.25, -0.25) if s_ else back(0, 0.45, -1.12)
        mesh.grid(ellipsoid(start, frame, head * 0.17, np.pi - 0.05, 10, 6), tone["trim"], bias=0.004)
        world = 0.35 * frame[:, 1] + 0.65 * np.array([0, 1.0, 0])
        outward = frame @ np.array([0.55 * s_, 0, -0.55 if not s_ else -0.1])
        q = np.linspace(0, 1, 8)[:, None]
        path = start + head[1] * (outward * (q - 0.5 * q * q) * 1.3 - world * 1.75 * q**1.4)
        width = head[0] * np.interp(q[:, 0], [0, 0.15, 0.5, 0.85, 1], [0.14, 0.28, 0.33, 0.22, 0.05])
        frames = np.stack([_toward(d, frame if abs(d[0]) + abs(d[1]) > 1e-9 else frame) for d in np.gradient(path, axis=0)])
        mesh.grid(loft(path, frames, width, width, 12), hair)


def _curtain(mesh, look, hair, j, t, reach):
    """Hair that falls from the sides and the back of the head; it hangs down whichever way the head tilts."""
    p, frame, skull = j.proportions, j.head_frame[t], j.skull[t]
    head = np.array(p.head)
    opening = np.radians(62)
    count, rows = 22, 7
    s, c = around(count, opening, 2 * np.pi - opening, False)
    angle = np.abs(np.arctan2(s, c))
    local = np.stack([1.10 * head[0] * s, np.full(count + 1, 0.12 * head[1]), 1.10 * head[2] * c - 0.03 * head[2]], 1)
    start = skull + local @ frame.T
    outward = (local * (1, 0, 1)) @ frame.T
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    hang = 0.55 * frame[:, 1] + 0.45 * np.array([0, 1.0, 0])
    hang /= np.linalg.norm(hang)
    length = head[1] * reach * np.interp(np.degrees(angle), [62, 90, 180], [0.92, 1.0, 1.06])
    q = np.linspace(0, 1, rows)[:, None, None]
    bulge = head[0] * (0.10 * np.sin(np.pi * np.minimum(q * 1.1, 1)) - (0.20 if reach < 1.5 else 0.05) * q**3)
    grid = start[None] + outward[None] * bulge - hang * q * length[None, :, None]
    shade = 1 + 0.06 * np.where(np.arange(count) % 3 == 0, -1, 0.4)[None, :, None]
    mesh.grid(grid, hair * np.broadcast_to(shade, (rows - 1, count, 1)), double=True, closed=False)


def _hat(mesh, look, tone, j, t):
    kind = look["hat"]
    if kind == "none":
        return
    p, frame, skull = j.proportions, j.head_frame[t], j.skull[t]
    head, paint = np.array(p.head), tone["hat_colour"]
    count = 28
    s, c = around(count)
    base = skull + frame @ np.array([0, 0.04 * head[1], -0.02 * head[2]])

    def ring(height, wide, deep=None):
        local = np.stack([wide * head[0] * s, np.full(count, height * head[1]), (deep or wide) * head[2] * c], 1)
        return skull + local @ frame.T

    if kind in ("cap", "beanie"):
        lower = np.radians(66 if kind == "cap" else 68)
        mesh.grid(ellipsoid(base, frame, head * (1.17, 1.15 if kind == "cap" else 1.2, 1.17), lower, count, 8), paint, bias=0.012)
        if kind == "beanie":
            mesh.grid(np.stack([ring(0.62, 1.12), ring(0.36, 1.17)]), paint * 0.82, bias=0.016)
            mesh.grid(
                ellipsoid(skull + frame @ np.array([0, 1.3 * head[1], 0]), frame, head * 0.2, np.pi - 0.05, 12, 6), tone["trim"]
            )
        else:
            a = np.linspace(-1.15, 1.15, 13)
            inner = np.stack([1.10 * head[0] * np.sin(a), np.full(13, 0.46 * head[1]), 1.08 * head[2] * np.cos(a)], 1)
            outer = np.stack(
                [
                    1.12 * head[0] * np.sin(a),
                    np.full(13, 0.40 * head[1]),
                    head[2] * (1.05 * np.cos(a) + 0.62 * np.cos(a * 1.3) ** 2),
                ],
                1,
            )
            mesh.grid(skull + np.stack([inner, outer]) @ frame.T, paint * 0.85, bias=0.02, double=True, closed=False)
    elif kind == "top hat":
        mesh.grid(
            np.stack([ring(1.75, 0.02), ring(1.75, 0.84), ring(1.3, 0.80), ring(0.9, 0.80), ring(0.72, 0.84)]), paint, bias=0.012
        )
        mesh.grid(np.stack([ring(0.92, 0.82), ring(0.72, 0.86)]), tone["trim"], bias=0.018)
        mesh.grid(np.stack([ring(0.70, 0.8), ring(0.70, 1.35)]), paint * 0.9, bias=0.012, double=True)
    else:
        mesh.grid(np.stack([ring(1.22, 0.02), ring(1.18, 0.6), ring(0.9, 0.98), ring(0.58, 1.10)]), paint, bias=0.012)
        mesh.grid(np.stack([ring(0.72, 1.06), ring(0.56, 1.12)]), tone["trim"], bias=0.018)
        mesh.grid(np.stack([ring(0.56, 1.05), ring(0.44, 1.75)]), paint * 0.94, bias=0.012, double=True)
