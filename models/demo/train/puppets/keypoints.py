"""The 133 keypoints of COCO-WholeBody, exact by construction, and our keypoint files (docs/keypoints.md)."""

import json

import numpy as np

from .face import EAR, EYE, landmarks, normals, surface

COUNT = 133
# Scores; a joint is drawn above 0.35. Estimators infer a hidden shoulder or hip from the one that is seen, limbs they lose.
SEEN, HIDDEN, INFERRED = 0.95, 0.15, 0.45
TRUNK = (5, 6, 11, 12)
FACE = slice(23, 91)
HANDS = (slice(91, 112), slice(112, 133))
# Bones of the body for pictures and tests, as pairs of keypoints.
BONES = (
    (5, 6),
    (5, 7),
    (7, 9),
    (6, 8),
    (8, 10),
    (5, 11),
    (6, 12),
    (11, 12),
    (11, 13),
    (13, 15),
    (12, 14),
    (14, 16),
    (0, 1),
    (0, 2),
    (1, 3),
    (2, 4),
)


def points(joints, faces):
    """World positions [T, 133, 3]; `faces` has mouth, smile, blink and brow [T] each."""
    frames = len(joints.neck)
    out = np.empty((frames, COUNT, 3))
    for t in range(frames):
        uv = landmarks(*(float(faces[name][t]) for name in ("mouth", "smile", "blink", "brow")))
        out[t, FACE] = surface(joints, t, uv)
        out[t, 1:3] = surface(joints, t, [EYE, (-EYE[0], EYE[1])])
        out[t, 3:5] = surface(joints, t, [EAR, (-EAR[0], EAR[1])])
    out[:, 0] = out[:, 23 + 30]
    for i in (0, 1):
        out[:, 5 + i], out[:, 7 + i], out[:, 9 + i] = joints.shoulder[i], joints.elbow[i], joints.hand[i][:, 0]
        out[:, 11 + i], out[:, 13 + i], out[:, 15 + i] = joints.hip[i], joints.knee[i], joints.ankle[i]
        out[:, 17 + 3 * i : 20 + 3 * i] = joints.foot[i]
        out[:, HANDS[i]] = joints.hand[i]
    return out


def keypoints(joints, faces, camera, look, size=None):
    """Keypoints [T, 133, 3] as x, y (pixels) and score: low where the own body hides them, or outside of `size` (width, height)."""
    world = points(joints, faces)
    xy, near = camera.project(world)
    lost = np.full(COUNT, HIDDEN)
    lost[list(TRUNK)] = INFERRED
    score = SEEN + (lost - SEEN) * np.maximum(_covered(joints, camera, look, xy, near), _averted(joints, faces, camera))
    if size is not None:
        inside = ((xy >= 0) & (xy <= np.array(size))).all(-1)
        score = np.where(inside, score, np.minimum(score, HIDDEN))
    return np.concatenate([xy, score[..., None]], -1)


def _ramp(x, low, high):
    return np.clip((x - low) / (high - low), 0, 1)


def _averted(joints, faces, camera):
    """How far (0..1) points of the head look away from the viewer."""
    frames = len(joints.neck)
    out = np.zeros((frames, COUNT))
    view = camera.turn()[2]
    for t in range(frames):
        uv = landmarks(*(float(faces[name][t]) for name in ("mouth", "smile", "blink", "brow")))
        # A little of the far side still shows at the rim.
        out[t, FACE] = 1 - _ramp(normals(joints, t, uv * 0.97) @ view, -0.12, 0.05)
        out[t, 1:3] = 1 - _ramp(normals(joints, t, [EYE, (-EYE[0], EYE[1])]) @ view, -0.12, 0.05)
        front, left = joints.head_frame[t][:, 2] @ view, joints.head_frame[t][:, 0] @ view
        out[t, 0] = 1 - _ramp(front, -0.25, -0.05)
        out[t, 3], out[t, 4] = 1 - _ramp(left, -0.4, -0.2), 1 - _ramp(-left, -0.4, -0.2)
    return out


def _covered(joints, camera, look, xy, near):
    """How far (0..1) a nearer part of the body covers each point: parts are balls swept along bones."""
    body, p = look["body"], joints.proportions
    arm, leg = body["arm_girth"], body["leg_girth"]
    parts = [
        (joints.pelvis, joints.neck, 0.5 * (body["waist_girth"] + body["chest_girth"]) * 0.85, set(), 0.10),
        (
            joints.skull - 0.2 * p.head[1] * joints.head_frame[:, :, 1],
            joints.skull + 0.2 * p.head[1] * joints.head_frame[:, :, 1],
            0.92 * p.head[0],
            set(range(5)) | set(range(23, 91)),
            0.06,
        ),
    ]
    for i in (0, 1):
        hand = set(range(91 + 21 * i, 112 + 21 * i))
        knuckle = joints.hand[i][:, 9]
        parts += [
            (joints.shoulder[i], joints.elbow[i], 0.9 * arm[0], {5 + i, 7 + i}, 0.04),
            (joints.elbow[i], joints.hand[i][:, 0], 0.5 * (arm[0] + arm[1]), {7 + i, 9 + i, 91 + 21 * i}, 0.04),
            (joints.hand[i][:, 0], knuckle, 0.24 * p.hand, {9 + i} | hand, 0.03),
            (joints.hip[i], joints.knee[i], 0.8 * leg[0], {11 + i, 13 + i, 12 - i}, 0.05),
            (
                joints.knee[i],
                joints.ankle[i],
                0.6 * (leg[0] + leg[1]) * 0.8,
                {13 + i, 15 + i} | set(range(17 + 3 * i, 20 + 3 * i)),
                0.04,
            ),
        ]
    out = np.zeros(near.shape)
    for start, end, radius, own, margin in parts:
        (a, za), (b, zb) = camera.project(start), camera.project(end)
        ab = b - a
        t = ((xy - a[:, None]) * ab[:, None]).sum(-1) / np.maximum((ab**2).sum(-1), 1e-9)[:, None]
        t = np.clip(t, 0, 1)
        distance = np.linalg.norm(xy - a[:, None] - t[..., None] * ab[:, None], axis=-1) / camera.scale
        front = za[:, None] + t * (zb - za)[:, None] + np.sqrt(np.clip(radius**2 - distance**2, 0, None))
        hidden = _ramp(front - near, margin, margin + 0.04) * _ramp(radius - distance, 0.0, 0.006)
        hidden[:, sorted(own)] = 0
        out = np.maximum(out, hidden)
    return out


def write_json(path, frames, size, fps, reference=None, reference_size=None, digits=3):
    """Writes our keypoint file: frames [T, 133, 3], `reference` [133, 3] in a picture of `reference_size` (width, height)."""
    number = lambda value, places: int(value) if value == int(value) else round(float(value), places)
    person = lambda k: {"keypoints": [[number(x, digits), number(y, digits), number(s, min(digits + 1, 3))] for x, y, s in k]}
    compact = lambda value: json.dumps(value, separators=(",", ":"), allow_nan=False)
    head = {"format": "steadydance-keypoints", "version": 1, "width": int(size[0]), "height": int(size[1]), "fps": float(fps)}
    lines = [f"{json.dumps(key)}: {compact(value)}" for key, value in head.items()]
    if reference is not None:
        lines.append(
            f'"reference": {compact({"width": int(reference_size[0]), "height": int(reference_size[1]), "people": [person(reference)]})}'
        )
    rows = ",\n".join(compact({"people": [person(k)]}) for k in frames)
    with open(path, "w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(lines) + ',\n"frames": [\n' + rows + "\n]\n}\n")
