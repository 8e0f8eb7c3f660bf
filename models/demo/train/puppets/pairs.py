"""Pairs: a reference puppet in a picture, another puppet dancing in a clip, and the truth: the first one dancing that dance.

The truth has the reference's proportions, joint angles of the driving clip, and its neck where SteadyDancer's alignment puts it: as
far from its place in the reference, in heights of the picture, as the driving neck is from its place in the first frame. The
first frame of the truth is the reference picture itself; over the next `settle` frames the puppet goes over to the driven pose.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .draw import Camera, draw, stage
from .keypoints import keypoints
from .look import prompt, proportions, sample_look
from .motion import rest_pose, sample_motion, smooth
from .skeleton import INDEX, Joints, solve

SPLITS = ("train", "held-out")
_FACE = ("mouth", "smile", "blink", "brow")
SIZES = ((208, 288), (256, 256), (288, 208), (240, 320))


def split_of(seed):
    """Which split the looks and motions of a seed belong to: every tenth seed is held out."""
    return "held-out" if seed % 10 == 0 else "train"


def _seed(rng, split):
    base = int(rng.integers(1, 200_000_000)) * 10
    return base if split == "held-out" else base + int(rng.integers(1, 10))


@dataclass
class Actor:
    """A puppet with its poses before a camera."""

    look: dict
    joints: Joints
    faces: dict
    camera: Camera
    size: tuple

    def keypoints(self):
        """[T, 133, 3]: x, y in pixels, score."""
        return keypoints(self.joints, self.faces, self.camera, self.look, self.size)

    @cached_property
    def backdrop(self):
        return stage(self.look, self.camera, self.size)

    def frame(self, t, grid=3):
        """(picture [H, W, 3], figure mask [H, W]) of pose t."""
        face = {name: float(self.faces[name][t]) for name in _FACE}
        return draw(self.look, self.joints, t, self.camera, self.size, self.backdrop, face, grid=grid)

    def video(self, grid=3):
        """All frames [T, H, W, 3] and masks [T, H, W]."""
        frames = [self.frame(t, grid) for t in range(len(self.joints.neck))]
        return np.stack([f[0] for f in frames]), np.stack([f[1] for f in frames])


@dataclass
class Pair:
    """What training and judging need; `pose` is what conditions the model, `truth` what it should show."""

    seed: int
    split: str
    fps: float
    beat: float  # of the dance, in seconds
    prompt: str
    reference: Actor  # one pose
    driving: Actor
    pose: Actor  # the reference puppet exactly in the driven poses
    truth: Actor  # the same from frame `settle` on


def sample_pair(seed, split="train", size=(208, 288), frames=33, fps=16.0, driving_size=None, settle=4, start=0):
    """The pair of a seed; `size` (width, height) is the reference's and the truth's, `driving_size` is drawn if not given.

    The dance is filmed from its frame `start` on.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}: it must be one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([int(seed), SPLITS.index(split), 0x9A12])
    look, other = sample_look(_seed(rng, split)), sample_look(_seed(rng, split))
    own, body = proportions(look), proportions(other)
    rest, dance = rest_pose(_seed(rng, split), own), sample_motion(_seed(rng, split), body, start + frames, fps)
    dance.channels, dance.pelvis = dance.channels[start:], dance.pelvis[start:]
    driving_size = driving_size or SIZES[int(rng.integers(len(SIZES)))]
    pitch = float(rng.uniform(2, 10))

    driven = solve(body, dance.channels, dance.pelvis)
    driving = Actor(other, driven, _faces(dance.channels), _frame_up(rng, driven, driving_size, pitch, other), driving_size)
    standing = solve(own, rest.channels, rest.pelvis)
    neck = _neck(driving.joints, driving.camera) / driving_size[1]

    share = smooth(np.arange(frames) / settle)[:, None] if settle else np.ones((frames, 1))
    settled = rest.channels * (1 - share) + dance.channels * share
    best = None
    for _ in range(12):
        camera = _frame_up(rng, standing, size, pitch, look)
        start = _neck(standing, camera)[0]
        target = start + (neck - neck[0]) * size[1]
        strict = _place(own, dance.channels, dance.pelvis[:, 2], camera, target)
        lost = _outside(strict, camera, size, look)
        if best is None or lost < best[0]:
            best = (lost, camera, target, strict)
        if lost == 0:
            break
    _, camera, target, strict = best
    depth = rest.pelvis[:, 2] * (1 - share[:, 0]) + dance.pelvis[:, 2] * share[:, 0]
    soft = _place(own, settled, depth, camera, target)
    actor = lambda joints, channels: Actor(look, joints, _faces(channels), camera, size)
    return Pair(
        int(seed),
        split,
        fps,
        dance.beat,
        prompt(look, dance.words),
        actor(standing, rest.channels),
        driving,
        actor(strict, dance.channels),
        actor(soft, settled),
    )


def pairs(split="train", first=0, **options):
    """Endless pairs of a split, from seed `first` on."""
    seed = first
    while True:
        yield sample_pair(seed, split, **options)
        seed += 1


def _faces(channels):
    return {name: channels[:, INDEX[name]] for name in _FACE}


def _neck(joints, camera):
    """Pixels [T, 2] of the middle of the shoulders."""
    return camera.project((joints.shoulder[0] + joints.shoulder[1]) / 2)[0]


def _place(body, channels, depth, camera, target):
    """Joints whose neck is seen at the pixels `target`, with the pelvis at `depth` (z)."""
    pelvis = np.stack([np.zeros_like(depth), np.zeros_like(depth), depth], 1)
    off = target - _neck(solve(body, channels, pelvis), camera)
    pelvis[:, 0] = off[:, 0] / camera.scale
    pelvis[:, 1] = -off[:, 1] / (camera.scale * np.cos(np.radians(camera.pitch)))
    return solve(body, channels, pelvis)


def _outside(joints, camera, size, look):
    """Share of joints that leave the picture at the sides or the top (feet may leave it below in close pictures)."""
    crown = joints.skull + joints.head_frame[:, :, 1] * joints.proportions.head[1] * (1.9 if look["hat"] == "top hat" else 1.35)
    spots = np.stack([crown, *joints.elbow, *(h[:, 12] for h in joints.hand), *joints.knee], 1)
    feet = np.stack([f[:, k] for f in joints.foot for k in (0, 2)], 1)
    xy, low = camera.project(spots)[0], camera.project(feet)[0]
    out = (xy[..., 0] < 2) | (xy[..., 0] > size[0] - 2) | (xy[..., 1] < 2)
    out_low = (low[..., 0] < 2) | (low[..., 0] > size[0] - 2) | ((low[..., 1] > size[1] - 3) & (camera.floor[1] < size[1]))
    return float(out.mean() + out_low.mean())


def _frame_up(rng, joints, size, pitch, look):
    """A camera that shows the puppet as people film: mostly whole, sometimes from the shins up, not quite in the middle."""
    width, height = size
    best = None
    for attempt in range(16):
        close = attempt < 6 and rng.random() < 0.12
        share = rng.uniform(0.92, 1.1) if close else rng.uniform(0.64, 0.88) * (1 - 0.02 * attempt)
        base = rng.uniform(1.02, 1.12) if close else rng.uniform(0.88, 0.96)
        camera = Camera((width * rng.normal(0.5, 0.035), height * base), height * share, pitch)
        lost = _outside(joints, camera, size, look)
        if best is None or lost < best[0]:
            best = (lost, camera)
        if lost == 0:
            break
    return best[1]
