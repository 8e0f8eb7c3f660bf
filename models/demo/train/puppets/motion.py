"""Dance motion: named moves as oscillators of joint angles that are locked to a beat, over planted feet.

A dance is a sequence of leg moves and of arm moves, each a few beats long and cross-faded into the next. Legs follow from a path
of the body and from footsteps (inverse kinematics on the dancer's proportions), arms, spine, head and fingers from their angles.
Everything is a smooth function of time, so any frame rate samples the same dance; it begins in a rest pose and gathers pace.
"""

from dataclasses import dataclass

import numpy as np

from . import moves
from .moves import sine
from .skeleton import CHANNELS, FINGERS, INDEX, SIDES, leg_channels, rx, ry, rz, soft_limit, solve

# What a prompt calls the moves.
LEG_MOVES = {
    "sway": "swaying from side to side",
    "step": "stepping from side to side",
    "march": "marching on the spot",
    "turn": "turning around",
    "jump": "jumping",
    "crouch": "crouching down and up",
    "kick": "kicking",
    "walk": "walking sideways",
    "twist": "twisting the hips",
}
HEAD_MOVES = ("nod", "tilt", "look", "shake")


@dataclass
class Motion:
    """A dance on its dancer: channels [T, channels] in degrees and the middle of the hips [T, 3] in standing heights."""

    channels: np.ndarray
    pelvis: np.ndarray
    legs: list
    arms: list
    beat: float  # seconds

    @property
    def words(self):
        """The moves as a prompt names them."""
        legs = [LEG_MOVES[m] for m in dict.fromkeys(self.legs)]
        arms = [moves.WORDS[m] for m in dict.fromkeys(self.arms) if m != "hang"]
        return " and ".join(filter(None, [", then ".join(legs), ", then ".join(arms)]))


def sample_motion(seed, proportions, frames, fps=16.0):
    """The dance of a seed on a body: `frames` poses at `fps` frames a second, from a rest pose on."""
    return _Dance(seed, proportions, (frames - 1) / fps).at(np.arange(frames) / fps)


def rest_pose(seed, proportions):
    """A quiet standing pose as a one-frame motion: how people stand in reference pictures."""
    rng = np.random.default_rng([int(seed), 0x2E57])
    dance = _Dance(int(seed), proportions, 0.5)
    motion = dance.at(np.zeros(1))
    motion.channels[:, INDEX["smile"]] = rng.uniform(0.2, 1)
    kind = rng.choice(["hang", "hips", "hello", "flex", "apart"], p=[0.5, 0.12, 0.12, 0.06, 0.2])
    if kind == "apart":
        pose = {
            "arm_abd": rng.uniform(20, 70),
            "arm_flex": rng.uniform(0, 15),
            "elbow": rng.uniform(5, 30),
            "arm_twist": rng.uniform(0, 30),
        }
        for side, _ in SIDES:
            for name, value in pose.items():
                motion.channels[:, INDEX[f"{side}_{name}"]] = value
    elif kind != "hang":
        arms = moves.MOVES[str(kind)](rng, np.zeros(1))
        for name, value in arms.items():
            motion.channels[:, INDEX[name]] = value
    motion.channels = soft_limit(motion.channels)
    return motion


def smooth(x):
    """0 below 0, 1 above 1, with speed and acceleration zero at both."""
    x = np.clip(x, 0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)


class _Dance:
    """What was drawn from a seed, ready to be evaluated at any time."""

    def __init__(self, seed, proportions, seconds):
        self.p = proportions
        self.rng = rng = np.random.default_rng([int(seed), 0xDA2CE])
        self.beat = 60 / rng.uniform(92, 132)
        self.phase = rng.uniform(0, 2)
        self.energy = rng.uniform(0.7, 1.1)
        self.facing = rng.normal(0, 13) if rng.random() < 0.85 else rng.uniform(-50, 50)
        self.stance = rng.uniform(1.05, 1.6)
        self.toes_out = rng.uniform(6, 22)
        self.bounce = rng.uniform(0.006, 0.022)
        self.sway = rng.uniform(0.010, 0.03)
        self.noise_seed = int(rng.integers(1 << 31))
        self.head_move = str(rng.choice(HEAD_MOVES))
        self.head_size = rng.uniform(4, 12)
        self.smile = rng.uniform(0.0, 1.0)
        self._parts(seconds)
        self._plan(seconds)

    def _parts(self, seconds):
        """The moves and when each begins, in seconds."""
        rng, t = self.rng, 0.25 * self.beat
        self.leg_parts, self.arm_parts = [], []
        weights = dict(sway=0.12, step=0.17, march=0.10, turn=0.20, jump=0.09, crouch=0.09, kick=0.09, walk=0.08, twist=0.06)
        while t < seconds + self.beat:
            move = str(rng.choice(list(weights), p=list(weights.values())))
            if self.leg_parts and self.leg_parts[-1][2] == move:
                continue
            length = self.beat * int(rng.choice([4, 4, 6, 8]))
            self.leg_parts.append((t, t + length, move))
            t += length
        t = 0.0
        names = [name for name in moves.MOVES if name != "hang"]
        while t < seconds + self.beat:
            length = self.beat * int(rng.choice([4, 4, 6, 8]))
            name = "hang" if rng.random() < 0.05 else str(rng.choice(names))
            self.arm_parts.append((t, t + length, name, int(rng.integers(1 << 31))))
            t += length

    def _plan(self, seconds):
        """The body's path, then footsteps: each foot steps to where it will be needed until its next step."""
        rng, beat = self.rng, self.beat
        self.travel, self.turns, self.hops, self.dips, self.kicks = [], [], [], [], []
        steps = []
        foot = int(rng.integers(2))
        for start, end, move in self.leg_parts:
            count = int(round((end - start) / beat))
            if move == "turn":
                angle = float(rng.choice([90, 180, 180, 360, 360]) * rng.choice([-1, 1]))
                duration = min(count * beat, beat * (1.5 + abs(angle) / 90))
                self.turns.append((start, duration, angle))
                if abs(angle) == 90 and count >= 6:
                    self.turns.append((start + 3 * beat, duration, -angle))
                steps += [(start + k * beat / 2, 0.42 * beat, (foot + k) % 2, 0.035) for k in range(2 * count)]
                foot += 2 * count
            elif move == "step":
                side = float(rng.choice([-1, 1])) * rng.uniform(0.07, 0.14)
                for k in range(count):
                    if k % 2 == 0:
                        self.travel.append((start + k * beat, beat, side * (1 if k % 4 == 0 else -1)))
                    lead = 0 if side * (1 if k % 4 < 2 else -1) > 0 else 1
                    steps.append((start + k * beat, 0.7 * beat, lead if k % 2 == 0 else 1 - lead, 0.035))
            elif move == "walk":
                side = float(rng.choice([-1, 1]))
                half = max(count // 2, 1)
                for k in range(count):
                    to = side if k < half else -side
                    self.travel.append((start + k * beat, beat, to * 0.11))
                    lead = 0 if to > 0 else 1
                    steps.append((start + k * beat, 0.6 * beat, lead if k % 2 == 0 else 1 - lead, 0.04))
            elif move == "march":
                height = rng.uniform(0.07, 0.16)
                steps += [(start + k * beat, 0.85 * beat, (foot + k) % 2, height) for k in range(count)]
                foot += count
            elif move == "jump":
                self.hops += [(start + (2 * k + 0.6) * beat, 0.8 * beat, rng.uniform(0.05, 0.12)) for k in range(count // 2)]
            elif move == "crouch":
                self.dips += [(start + 2 * k * beat, 2 * beat, rng.uniform(0.08, 0.2)) for k in range(count // 2)]
            elif move == "kick":
                way = float(rng.choice([0, 1]))
                self.kicks += [
                    (start + 2 * k * beat, 1.5 * beat, (foot + k) % 2, rng.uniform(0.12, 0.26), way) for k in range(count // 2)
                ]
        self.steps = [sorted((s for s in steps if s[2] == i), key=lambda s: s[0]) for i in (0, 1)]

    def body(self, t):
        """The path without its oscillations: x, z and yaw."""
        x = sum((d * smooth((t - s) / n) for s, n, d in self.travel), np.zeros_like(t))
        yaw = self.facing + sum((a * smooth((t - s) / n) for s, n, a in self.turns), np.zeros_like(t))
        return x, yaw

    def home(self, i, t):
        """Where a foot belongs under the body at times t: x, z, yaw."""
        x, yaw = self.body(t)
        side = SIDES[i][1]
        angle = np.radians(yaw)
        out = side * self.p.hip * self.stance
        return x + out * np.cos(angle), -out * np.sin(angle), yaw + side * self.toes_out

    def foot(self, i, t):
        """A foot's place [T, 3] (x, lift, z) and its yaw, at times t."""
        x, z, yaw = (v.copy() for v in self.home(i, np.zeros_like(t)))
        lift = np.zeros_like(t)
        for k, (start, duration, _, height) in enumerate(self.steps[i]):
            after = self.steps[i][k + 1][0] if k + 1 < len(self.steps[i]) else start + 2 * self.beat
            # Half way to the next step is what the new place must suit; at the end of a part, its very end.
            middle = np.array([start + duration + 0.5 * max(min(after, start + 2 * self.beat) - start - duration, 0)])
            to = self.home(i, middle)
            w = smooth((t - start) / duration)
            x, z, yaw = x + (to[0] - x) * w, z + (to[1] - z) * w, yaw + (to[2] - yaw) * w
            u = np.clip((t - start) / duration, 0, 1)
            lift += height * np.sin(np.pi * u) ** 2
        return x, lift, z, yaw

    def weights(self, t, parts):
        """Cross-faded shares of consecutive parts, after a start of half a second."""
        fade = 0.9 * self.beat
        begins = [smooth((t - max(part[0] - fade / 2, 0.0)) / fade) for part in parts]
        return [b * (1 - after) for b, after in zip(begins, [*begins[1:], np.zeros_like(t)])]

    def at(self, t):
        c = {name: np.zeros_like(t) for name in CHANNELS}
        b = t / self.beat + self.phase
        awake = smooth(t / 0.7)
        energy = self.energy * awake
        self._arms(c, t, b, awake)
        self._head_and_face(c, t, b, awake)
        self._legs(c, t, b, energy)
        drift = np.random.default_rng(self.noise_seed)
        for name, size in {
            "spine_yaw": 4,
            "spine_roll": 3,
            "head_yaw": 6,
            "head_roll": 3,
            "left_elbow": 4,
            "right_elbow": 4,
            "left_arm_abd": 3,
            "right_arm_abd": 3,
        }.items():
            for rate in (0.23, 0.41, 0.67):
                c[name] += size / 2 * awake * np.sin(2 * np.pi * (rate * drift.uniform(0.8, 1.2) * t + drift.uniform()))
        upper = soft_limit(np.stack([c[name] for name in CHANNELS], 1))
        channels, pelvis = self._stand(upper, t, b, energy)
        length = t[-1] if len(t) else 0.0
        legs = [m for start, _, m in self.leg_parts if start < length - 0.4] or [self.leg_parts[0][2]]
        arms = [m for start, _, m, _ in self.arm_parts if start < length - 0.4] or [self.arm_parts[0][2]]
        return Motion(channels, pelvis, legs, arms, self.beat)

    def _arms(self, c, t, b, awake):
        arm_names = [
            f"{side}_{n}"
            for side, _ in SIDES
            for n in (
                "shrug",
                "arm_flex",
                "arm_abd",
                "arm_twist",
                "elbow",
                "prone",
                "wrist_flex",
                "wrist_dev",
                "spread",
                *[f"curl_{f}" for f in FINGERS],
            )
        ]
        weights = self.weights(t, self.arm_parts)
        idle = 1 - sum(weights)
        loose = {name: 18.0 for name in arm_names if "curl" in name} | {name: 0.25 for name in arm_names if "spread" in name}
        rest = loose | moves.hang(np.random.default_rng(self.noise_seed), np.zeros_like(t))
        curves = [loose | moves.MOVES[name](np.random.default_rng(seed), b) for _, _, name, seed in self.arm_parts]
        for name in arm_names:
            c[name] += rest.get(name, 0.0) * idle + sum(m.get(name, 0.0) * w for m, w in zip(curves, weights))
        opening = awake * 8 * sine(b, 0.5)
        for side, _ in SIDES:
            for k, f in enumerate(FINGERS):
                c[f"{side}_curl_{f}"] += opening + awake * 5 * sine(b, 1, 0.15 * k)

    def _head_and_face(self, c, t, b, awake):
        size = self.head_size * awake
        if self.head_move == "nod":
            c["head_pitch"] += size * (0.4 + 0.8 * sine(b, 2))
        elif self.head_move == "tilt":
            c["head_roll"] += 1.3 * size * sine(b, 1)
        elif self.head_move == "look":
            c["head_yaw"] += 2.4 * size * sine(b, 0.5)
        else:
            c["head_yaw"] += 1.5 * size * sine(b, 1)
        c["mouth"] += awake * (0.3 + 0.3 * sine(b, 1)) * self.energy
        c["smile"] += 0.2 + 0.8 * self.smile
        c["brow"] += 0.4 * awake * sine(b, 1)
        blink = (t * 0.45 + self.phase) % 1
        c["blink"] += np.exp(-(((blink - 0.5) / 0.035) ** 2))

    def _legs(self, c, t, b, energy):
        """Pelvis and spine of the leg moves; the legs themselves come from _stand."""
        self.shares = {name: np.zeros_like(t) for name in LEG_MOVES}
        for part, w in zip(self.leg_parts, self.weights(t, self.leg_parts)):
            self.shares[part[2]] += w
        still = np.clip(self.shares["jump"] + self.shares["kick"] + self.shares["turn"], 0, 1)
        swing = sine(b, 1) * energy
        c["roll"] += 4.5 * swing * (1 - still)
        c["spine_roll"] += -7 * swing * (1 - still) + 9 * swing * self.shares["sway"]
        c["spine_yaw"] += 7 * sine(b, 1, 0.25) * energy - 24 * swing * self.shares["twist"]
        c["spine_pitch"] += 3 + 4 * sine(b, 2, 0.2) * energy
        _, yaw = self.body(t)
        c["yaw"] += yaw + 5 * sine(b, 1, 0.1) * energy * (1 - still) + 22 * swing * self.shares["twist"]
        dip = self._dip(t)
        c["pitch"] += 2 + 90 * dip
        c["spine_pitch"] += 70 * dip

    def _dip(self, t):
        out = np.zeros_like(t)
        for start, duration, depth in self.dips:
            out += depth * np.sin(np.pi * np.clip((t - start) / duration, 0, 1)) ** 2
        for start, duration, height in self.hops:
            # Gathering before the jump, and softening the landing.
            for centre in (start - 0.02, start + duration + 0.06):
                out += 0.6 * height * np.exp(-(((t - centre) / (0.22 * self.beat)) ** 2))
        return out

    def _stand(self, upper, t, b, energy):
        """Pelvis and leg angles that keep the feet where they are planted."""
        p, value = self.p, lambda name: upper[:, INDEX[name]]
        frame = ry(value("yaw")) @ rx(value("pitch")) @ rz(value("roll"))
        x, _ = self.body(t)
        hop = np.zeros_like(t)
        for start, duration, height in self.hops:
            u = np.clip((t - start) / duration, 0, 1)
            hop += height * np.sin(np.pi * u) ** 2
        feet = [self.foot(i, t) for i in (0, 1)]
        sway = self.sway * (1 + 1.6 * self.shares["sway"]) * sine(b, 1) * energy * (1 - self.shares["kick"])
        # The weight goes over the foot that stays on the floor.
        raised = [f[1].copy() for f in feet]
        kick = [np.zeros_like(t), np.zeros_like(t)]
        side_kick = [np.zeros_like(t), np.zeros_like(t)]
        for start, duration, i, size, way in self.kicks:
            u = size * np.sin(np.pi * np.clip((t - start) / duration, 0, 1)) ** 2
            raised[i] += u
            (side_kick if way else kick)[i] += u
        shift = np.tanh((raised[1] - raised[0]) / 0.06) * 0.5 * p.hip
        yaw = np.radians(value("yaw"))
        lateral = sway + shift
        pelvis = np.stack(
            [x + lateral * np.cos(yaw), np.zeros_like(t), -lateral * np.sin(yaw) - 0.4 * self._dip(t) * np.cos(yaw)], 1
        )
        ankles, frames = [], []
        for i, (_, s) in enumerate(SIDES):
            fx, lift, fz, fyaw = feet[i]
            relative = fyaw - value("yaw")
            # A planted foot pivots rather than twisting the hip.
            fyaw = value("yaw") + 40 * np.tanh(relative / 40)
            forward = np.stack([np.sin(yaw), np.zeros_like(t), np.cos(yaw)], 1)
            outward = s * np.stack([np.cos(yaw), np.zeros_like(t), -np.sin(yaw)], 1)
            place = np.stack([fx, p.ankle + raised[i] + hop, fz], 1)
            place += forward * (1.1 * kick[i] + 0.25 * lift)[:, None] + outward * (1.1 * side_kick[i])[:, None]
            toe_down = 200 * lift + 240 * hop * 1.2 + 60 * kick[i]
            ankles.append(place)
            frames.append(ry(fyaw) @ rx(np.clip(toe_down, 0, 50)))
        # As high as the leg that reaches furthest allows, with knees never quite locked.
        reach = 0.988 * sum(p.leg)
        tops = []
        for i, (_, s) in enumerate(SIDES):
            hip = frame @ np.array([s * p.hip, 0, 0])
            away = ankles[i] - pelvis - hip
            flat = np.minimum(away[:, 0] ** 2 + away[:, 2] ** 2, (0.8 * reach) ** 2)
            tops.append(ankles[i][:, 1] + np.sqrt(reach**2 - flat) - hip[:, 1])
        soft = 0.012
        low = (
            -soft * np.log(np.exp(-(tops[0] - tops[0].min()) / soft) + np.exp(-(tops[1] - tops[0].min()) / soft)) + tops[0].min()
        )
        bounce = self.bounce * (1 - np.cos(2 * np.pi * b)) * energy
        pelvis[:, 1] = low - bounce - self._dip(t)
        out = upper.copy()
        for i, (side, s) in enumerate(SIDES):
            hip = pelvis + frame @ np.array([s * p.hip, 0, 0])
            knee_yaw = value("yaw") + s * 8 + 0.6 * 40 * np.tanh((feet[i][3] - value("yaw")) / 40)
            toward = ry(knee_yaw) @ np.array([0, 0, 1.0])
            # Knees point up rather than down when the thigh is level.
            toward = toward + np.array([0, 0.35, 0]) * np.clip(raised[i] / 0.2, 0, 1)[:, None]
            for name, angle in leg_channels(frame, hip, ankles[i], frames[i], toward, s, p.leg).items():
                out[:, INDEX[f"{side}_{name}"]] = angle
        out = soft_limit(out)
        return out, pelvis


def joints(motion, proportions):
    """Joints of a motion on its own dancer."""
    return solve(proportions, motion.channels, motion.pelvis)
