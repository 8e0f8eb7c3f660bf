"""Arm moves: each gives the angles of both arms over the beat; what it leaves out stays loose."""

import numpy as np

from .skeleton import FINGERS, SIDES

# What a prompt calls the moves.
WORDS = {
    "swing": "swinging the arms",
    "pump": "pumping the fists",
    "wave": "waving both arms like a wave",
    "reach": "reaching up",
    "hello": "waving a hand",
    "clap": "clapping",
    "hips": "hands on the hips",
    "point": "pointing to the sky",
    "flex": "flexing the arms",
    "robot": "doing the robot",
    "circle": "circling the arms",
    "roll": "rolling the forearms",
    "hang": "letting the arms hang",
}


def _both(**channels):
    return {f"{side}_{name}": value for name, value in channels.items() for side, _ in SIDES}


def sine(beat, rate, phase=0.0):
    return np.sin(np.pi * (beat * rate + phase))


def _jitter(rng, centre, share=0.18):
    return centre * (1 + share * float(rng.uniform(-1, 1)))


def hang(rng, b):
    return _both(arm_abd=_jitter(rng, 10), arm_flex=_jitter(rng, 4) + 2 * sine(b, 1), elbow=_jitter(rng, 14), prone=15.0)


def _swing(rng, b):
    reach, bend = _jitter(rng, 34), _jitter(rng, 40)
    return {
        side + "_" + name: value
        for side, s in SIDES
        for name, value in {
            "arm_flex": 12 + s * reach * sine(b, 1),
            "arm_abd": 14.0,
            "elbow": bend + s * 18 * sine(b, 1, -0.15),
            "prone": 20.0,
            "arm_twist": -10.0,
        }.items()
    }


def _pump(rng, b):
    lift = _jitter(rng, 38)
    out = {}
    for side, s in SIDES:
        out |= {
            f"{side}_arm_flex": 40 + s * lift * sine(b, 1),
            f"{side}_arm_abd": 24.0,
            f"{side}_elbow": 100 - s * 14 * sine(b, 1),
            f"{side}_arm_twist": -4.0,
        }
        out |= {f"{side}_curl_{f}": 80.0 for f in FINGERS}
    return out


def _wave(rng, b):
    size, delay = _jitter(rng, 24), 0.28
    out = {}
    for side, s in SIDES:
        # The wave runs from the right hand to the left one.
        at = lambda place, s=s: sine(b, 1, -delay * s * place)
        out |= {
            f"{side}_arm_abd": 82 + size * at(1),
            f"{side}_arm_twist": 84.0,
            f"{side}_elbow": 34 + 30 * at(2),
            f"{side}_wrist_flex": -30 * at(3),
            f"{side}_prone": 60.0,
            f"{side}_shrug": 8 + 8 * at(0.5),
        }
    return out


def _reach(rng, b):
    out = {}
    for side, s in SIDES:
        out |= {
            f"{side}_arm_abd": 152 + s * 14 * sine(b, 1),
            f"{side}_arm_flex": 4.0,
            f"{side}_elbow": 26 - s * 18 * sine(b, 1),
            f"{side}_arm_twist": 40.0,
            f"{side}_shrug": 14 + s * 6 * sine(b, 1),
            f"{side}_spread": 0.7,
        }
    return out


def _hello(rng, b):
    side, other = ("left", "right") if rng.random() < 0.5 else ("right", "left")
    rest = hang(rng, b)
    lift, size = _jitter(rng, 88), _jitter(rng, 22)
    rest |= {
        f"{side}_arm_abd": lift + 5 * sine(b, 1),
        f"{side}_arm_twist": 88.0,
        f"{side}_elbow": 78 + size * sine(b, 2),
        f"{side}_arm_flex": 2.0,
        f"{side}_prone": 64.0,
        f"{side}_wrist_dev": 8 * sine(b, 2, -0.3),
        f"{side}_spread": 0.8,
    }
    rest |= {f"{other}_arm_abd": 14 + 4 * sine(b, 1)}
    return rest


def _clap(rng, b):
    open_ = (0.5 - 0.5 * np.cos(2 * np.pi * b)) ** 0.8
    up = _jitter(rng, 50)
    return _both(arm_flex=up, arm_abd=2 + 26 * open_, arm_twist=-40 + 34 * open_, elbow=74 - 10 * open_, prone=-4.0, spread=0.2)


def _hips(rng, b):
    return _both(arm_abd=46 + 3 * sine(b, 1), arm_flex=-14.0, arm_twist=-60.0, elbow=98.0, prone=40.0, wrist_flex=-12.0)


def _point(rng, b):
    side, other = ("left", "right") if rng.random() < 0.5 else ("right", "left")
    up = 0.5 - 0.5 * np.cos(np.pi * b)
    out = {
        f"{side}_arm_abd": 8 + 130 * up,
        f"{side}_arm_flex": 34 * (1 - up),
        f"{side}_elbow": 26 - 18 * up,
        f"{side}_arm_twist": 30 * up,
    }
    out |= {f"{side}_curl_{f}": 78.0 for f in FINGERS if f != "index"}
    out |= {name.replace("left", other): value for name, value in _hips(rng, b).items() if name.startswith("left")}
    return out


def _flex(rng, b):
    out = {}
    for side, s in SIDES:
        out |= {
            f"{side}_arm_abd": 84 + 6 * sine(b, 1),
            f"{side}_arm_twist": 86.0,
            f"{side}_elbow": 96 + s * 26 * sine(b, 1),
            f"{side}_prone": -50.0,
        }
        out |= {f"{side}_curl_{f}": 82.0 for f in FINGERS}
    return out


def _robot(rng, b):
    out = {}
    for side, s in SIDES:
        toggle = np.tanh(2.0 * sine(b, 0.5, 0.25 * (1 - s))) / np.tanh(2.0)
        out |= {
            f"{side}_arm_abd": 82.0,
            f"{side}_arm_twist": 10 + 74 * toggle,
            f"{side}_elbow": 88.0,
            f"{side}_prone": 0.0,
            f"{side}_spread": 0.0,
        }
    return out


def _circle(rng, b):
    rate = 0.75
    return _both(
        arm_abd=86 + 62 * sine(b, rate),
        arm_flex=8 + 30 * np.cos(np.pi * rate * b),
        elbow=22 + 10 * sine(b, rate),
        arm_twist=30.0,
        spread=0.6,
    )


def _roll(rng, b):
    out = {}
    for side, s in SIDES:
        phase = 0.0 if s > 0 else 1.0
        out |= {
            f"{side}_arm_flex": 44 + 13 * sine(b, 2, phase),
            f"{side}_elbow": 92 + 14 * np.cos(np.pi * (2 * b + phase)),
            f"{side}_arm_abd": 18.0,
            f"{side}_arm_twist": -52.0,
        }
        out |= {f"{side}_curl_{f}": 74.0 for f in FINGERS}
    return out


MOVES = {
    "swing": _swing,
    "pump": _pump,
    "wave": _wave,
    "reach": _reach,
    "hello": _hello,
    "clap": _clap,
    "hips": _hips,
    "point": _point,
    "flex": _flex,
    "robot": _robot,
    "circle": _circle,
    "roll": _roll,
    "hang": hang,
}
