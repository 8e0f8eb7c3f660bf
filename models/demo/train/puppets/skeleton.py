"""A puppet's skeleton: joint angles (channels) and proportions give joints in three dimensions.

A pose is a row of named channels in degrees; the same row on other proportions is the same pose of another body, which is what
makes a ground truth for every (reference, driving) pair. Batches have shape [T, channels].
"""

from dataclasses import dataclass, field

import numpy as np

SIDES = (("left", 1.0), ("right", -1.0))
FINGERS = ("thumb", "index", "middle", "ring", "little")

_CENTRE = {
    # Pelvis in the world; yaw turns the body about the vertical and has no limit.
    "yaw": None,
    "pitch": (-30, 50),
    "roll": (-25, 25),
    "spine_yaw": (-45, 45),
    "spine_pitch": (-25, 50),
    "spine_roll": (-30, 30),
    "head_yaw": (-65, 65),
    "head_pitch": (-40, 40),
    "head_roll": (-35, 35),
    # Shares of fully open, fully smiling, fully shut, fully raised.
    "mouth": (0, 1),
    "smile": (-1, 1),
    "blink": (0, 1),
    "brow": (-1, 1),
}
_SIDE = {
    "shrug": (-8, 25),
    # The arm hangs at 0: forwards, outwards, and about its own axis (positive turns the forearm outwards).
    "arm_flex": (-55, 170),
    "arm_abd": (-35, 172),
    "arm_twist": (-90, 95),
    "elbow": (0, 145),
    "prone": (-85, 85),
    "wrist_flex": (-70, 70),
    "wrist_dev": (-25, 25),
    **{f"curl_{name}": (-8, 88) for name in FINGERS},
    "spread": (0, 1),
    "hip_flex": (-40, 115),
    "hip_abd": (-35, 65),
    "hip_twist": (-55, 55),
    "knee": (0, 150),
    "ankle_yaw": (-45, 45),
    "ankle_pitch": (-50, 65),
    "ankle_roll": (-40, 40),
}
LIMITS = {**_CENTRE, **{f"{side}_{name}": limit for side, _ in SIDES for name, limit in _SIDE.items()}}
CHANNELS = tuple(LIMITS)
INDEX = {name: i for i, name in enumerate(CHANNELS)}

# Where each finger begins on the hand (along, across), its spread in degrees, and its length; in hand lengths.
_FINGER_PLAN = (
    ((0.16, 0.17), 40, 0.46),
    ((0.48, 0.19), 7, 0.44),
    ((0.50, 0.06), 2, 0.50),
    ((0.48, -0.07), -3, 0.46),
    ((0.43, -0.19), -9, 0.37),
)
_BONES = (0.45, 0.31, 0.24)


@dataclass(frozen=True)
class Proportions:
    """Lengths in standing heights; widths are half widths."""

    head: tuple  # half width, half height, half depth
    chin: float  # how much narrower the jaw is, 0..0.5
    neck: float
    chest: float  # waist joint to neck
    belly: float  # hips to waist joint
    shoulder: float
    hip: float
    arm: tuple  # upper, fore
    hand: float
    leg: tuple  # thigh, shin
    ankle: float  # height of the ankle
    foot: float  # heel to toe


@dataclass
class Joints:
    """Joints of T poses: points [T, 3], frames [T, 3, 3] whose columns are the part's own axes in the world."""

    proportions: Proportions
    pelvis: np.ndarray
    waist: np.ndarray
    neck: np.ndarray
    skull: np.ndarray  # middle of the head
    pelvis_frame: np.ndarray
    chest_frame: np.ndarray
    head_frame: np.ndarray
    shoulder: list = field(default_factory=list)  # [left, right], as all lists below
    elbow: list = field(default_factory=list)
    arm_frame: list = field(default_factory=list)
    fore_frame: list = field(default_factory=list)
    hand_frame: list = field(default_factory=list)
    hand: list = field(default_factory=list)  # [T, 21, 3]
    hip: list = field(default_factory=list)
    knee: list = field(default_factory=list)
    ankle: list = field(default_factory=list)
    thigh_frame: list = field(default_factory=list)
    shin_frame: list = field(default_factory=list)
    foot_frame: list = field(default_factory=list)
    foot: list = field(default_factory=list)  # [T, 3, 3]: big toe, small toe, heel


def rx(degrees):
    """Rotation about x, [..., 3, 3]: y turns towards z."""
    return _turn(degrees, 1, 2)


def ry(degrees):
    """Rotation about y: z turns towards x."""
    return _turn(degrees, 2, 0)


def rz(degrees):
    """Rotation about z: x turns towards y."""
    return _turn(degrees, 0, 1)


def _turn(degrees, a, b):
    angle = np.radians(np.asarray(degrees, dtype=np.float64))
    out = np.zeros(angle.shape + (3, 3))
    c, s = np.cos(angle), np.sin(angle)
    out[..., 3 - a - b, 3 - a - b] = 1
    out[..., a, a] = out[..., b, b] = c
    out[..., b, a], out[..., a, b] = s, -s
    return out


def soft_limit(channels):
    """Channels kept within LIMITS without a kink: unchanged inside, saturating over the last eighth of the range."""
    out = np.array(channels, dtype=np.float64)
    for i, limit in enumerate(LIMITS.values()):
        if limit is None:
            continue
        low, high = limit
        margin = (high - low) / 8
        x = out[..., i]
        over, under = x - (high - margin), (low + margin) - x
        # A rest value at the very end of the range (a straight knee) stays there.
        x = np.where(over > 0, high - margin + margin * np.tanh(np.maximum(over, 0) / margin), x)
        if low < 0:
            x = np.where(under > 0, low + margin - margin * np.tanh(np.maximum(under, 0) / margin), x)
        out[..., i] = np.clip(x, low, high)
    return out


def solve(proportions, channels, pelvis):
    """Joints of poses [T, channels] with the middle of the hips at `pelvis` [T, 3]."""
    p = proportions
    value = lambda name: channels[:, INDEX[name]]
    r0 = ry(value("yaw")) @ rx(value("pitch")) @ rz(value("roll"))
    r1 = r0 @ ry(value("spine_yaw")) @ rx(value("spine_pitch")) @ rz(value("spine_roll"))
    r2 = r1 @ ry(value("head_yaw")) @ rx(value("head_pitch")) @ rz(value("head_roll"))
    waist = pelvis + r0 @ np.array([0, p.belly, 0])
    neck = waist + r1 @ np.array([0, p.chest, 0])
    # The head turns about the top of the neck, a little behind the middle of the skull.
    throat = neck + r1 @ np.array([0, p.neck, 0.08 * p.neck])
    skull = throat + r2 @ np.array([0, p.head[1] * 0.92, p.head[2] * 0.12])
    j = Joints(p, pelvis, waist, neck, skull, r0, r1, r2)
    for side, s in SIDES:
        of = lambda name, side=side: channels[:, INDEX[f"{side}_{name}"]]
        shoulder = neck + r1 @ rz(s * of("shrug")) @ np.array([s * p.shoulder, 0, 0])
        arm = r1 @ rx(-of("arm_flex")) @ rz(s * of("arm_abd")) @ ry(s * of("arm_twist"))
        elbow = shoulder + arm @ np.array([0, -p.arm[0], 0])
        bent = arm @ rx(-of("elbow"))
        fore = bent @ ry(s * of("prone"))
        wrist = elbow + bent @ np.array([0, -p.arm[1], 0])
        hand = fore @ rz(-s * of("wrist_flex")) @ rx(of("wrist_dev"))
        j.shoulder.append(shoulder), j.elbow.append(elbow)
        j.arm_frame.append(arm), j.fore_frame.append(fore), j.hand_frame.append(hand)
        curls = np.stack([of(f"curl_{name}") for name in FINGERS], 1)
        j.hand.append(_hand(p.hand, s, wrist, hand, curls, of("spread")))

        hip = pelvis + r0 @ np.array([s * p.hip, 0, 0])
        thigh = r0 @ rx(-of("hip_flex")) @ rz(s * of("hip_abd")) @ ry(s * of("hip_twist"))
        knee = hip + thigh @ np.array([0, -p.leg[0], 0])
        shin = thigh @ rx(of("knee"))
        ankle = knee + shin @ np.array([0, -p.leg[1], 0])
        foot = shin @ ry(of("ankle_yaw")) @ rx(of("ankle_pitch")) @ rz(of("ankle_roll"))
        j.hip.append(hip), j.knee.append(knee), j.ankle.append(ankle)
        j.thigh_frame.append(thigh), j.shin_frame.append(shin), j.foot_frame.append(foot)
        down, toe = -0.8 * p.ankle, 0.74 * p.foot
        points = np.array([[-s * 0.14 * p.foot, down, toe], [s * 0.20 * p.foot, down, toe * 0.86], [0, down, -0.26 * p.foot]])
        j.foot.append(ankle[:, None] + points @ foot.transpose(0, 2, 1))
    return j


def _hand(length, s, wrist, frame, curls, spread):
    out = np.repeat(wrist[:, None], 21, 1)
    for f, ((along, across), angle, reach) in enumerate(_FINGER_PLAN):
        base = np.array([0, -along, across]) * length
        fan = angle * (0.45 + 0.9 * spread) if f else angle * (0.55 + 0.6 * spread)
        # The thumb folds across the palm, the fingers into it.
        turn = frame @ rx(-fan)
        point = wrist + frame @ base
        out[:, 1 + 4 * f] = point
        bend = 0.45 if f == 0 else 1.0
        for k, share in enumerate(_BONES):
            turn = turn @ rz(-s * curls[:, f] * bend * (0.75, 1.0, 0.7)[k])
            point = point + turn @ np.array([0, -reach * length * share, 0])
            out[:, 2 + 4 * f + k] = point
    return out


def leg_channels(frame, hip, target, foot_frame, toward, side, leg):
    """Angles of one leg that put the ankle at `target` with the foot turned as `foot_frame`.

    All are batches [T, ...]; `frame` is the pelvis, `toward` where the knee points, `leg` the lengths. Out of reach, the leg is
    almost straight. Returns a dict of channels without the side's name.
    """
    upper, lower = leg
    axis = target - hip
    span = np.linalg.norm(axis, axis=1, keepdims=True)
    axis = axis / span
    span = np.clip(span, 0.35 * (upper + lower), 0.9985 * (upper + lower))
    lead = np.arccos(np.clip((upper**2 + span**2 - lower**2) / (2 * upper * span), -1, 1))
    knee = np.pi - np.arccos(np.clip((upper**2 + lower**2 - span**2) / (2 * upper * lower), -1, 1))
    pole = toward - (toward * axis).sum(1, keepdims=True) * axis
    pole /= np.linalg.norm(pole, axis=1, keepdims=True)
    bone = axis * np.cos(lead) + pole * np.sin(lead)
    z = pole * np.cos(lead) - axis * np.sin(lead)
    thigh = np.stack([np.cross(-bone, z), -bone, z], 2)
    m = frame.transpose(0, 2, 1) @ thigh
    degrees = np.degrees
    shin = thigh @ rx(degrees(knee[:, 0]))
    f = shin.transpose(0, 2, 1) @ foot_frame
    return {
        "hip_flex": -degrees(np.arctan2(m[:, 2, 1], m[:, 1, 1])),
        "hip_abd": side * degrees(-np.arcsin(np.clip(m[:, 0, 1], -1, 1))),
        "hip_twist": side * degrees(np.arctan2(m[:, 0, 2], m[:, 0, 0])),
        "knee": degrees(knee[:, 0]),
        "ankle_yaw": degrees(np.arctan2(f[:, 0, 2], f[:, 2, 2])),
        "ankle_pitch": -degrees(np.arcsin(np.clip(f[:, 1, 2], -1, 1))),
        "ankle_roll": degrees(np.arctan2(f[:, 1, 0], f[:, 1, 1])),
    }
