"""How puppets look: bodies, hair, clothes, colours and light, all from one seed and plain enough for JSON."""

import numpy as np

from .backdrop import sample_backdrop
from .skeleton import Proportions

# Names that a prompt may use, and what they look like (sRGB).
COLOURS = {
    "red": (206, 48, 52),
    "orange": (238, 130, 44),
    "yellow": (246, 204, 66),
    "lime": (160, 205, 70),
    "green": (58, 146, 84),
    "teal": (34, 148, 148),
    "sky blue": (112, 182, 232),
    "blue": (52, 96, 190),
    "navy": (38, 50, 96),
    "purple": (122, 72, 172),
    "pink": (240, 136, 176),
    "magenta": (200, 48, 132),
    "brown": (124, 82, 54),
    "beige": (222, 200, 164),
    "white": (244, 244, 240),
    "grey": (140, 144, 150),
    "black": (44, 44, 52),
}
SKINS = {
    "fair": (250, 218, 196),
    "light": (240, 196, 164),
    "olive": (214, 166, 124),
    "tan": (190, 136, 94),
    "brown": (142, 94, 64),
    "dark": (98, 64, 48),
}
HAIRS = {
    "black": (40, 34, 38),
    "dark brown": (74, 50, 38),
    "brown": (122, 82, 50),
    "ginger": (206, 104, 44),
    "blond": (236, 200, 110),
    "white": (232, 230, 226),
    "pink": (238, 128, 170),
    "blue": (70, 110, 200),
    "green": (80, 160, 100),
}
HAIR_STYLES = ("short", "bob", "long", "ponytail", "pigtails", "bun", "afro", "spiky", "bald")
OUTFITS = (
    "shirt and trousers",
    "shirt and shorts",
    "shirt and skirt",
    "dress",
    "coat and trousers",
    "hoodie and trousers",
    "overalls",
)
PATTERNS = ("plain", "striped", "pinstriped", "checked", "dotted")
SHOES = ("shoes", "sneakers", "boots")
HATS = ("none", "cap", "beanie", "top hat", "sun hat")
BUILDS = ("child-like", "average", "long-limbed", "stocky", "big-headed")


def sample_look(seed):
    """The look of a seed: a dict of plain values, the same on every machine."""
    rng = np.random.default_rng([int(seed), 0x100C])
    pick = lambda options, weights=None: str(rng.choice(list(options), p=weights))
    build = pick(BUILDS, [0.22, 0.28, 0.2, 0.14, 0.16])
    look = {"seed": int(seed), "build": build, "body": _body(rng, build)}
    look["skin"] = pick(SKINS)
    look["hair"] = pick(HAIRS, [0.2, 0.17, 0.17, 0.13, 0.14, 0.05, 0.06, 0.04, 0.04])
    look["hair_style"] = pick(HAIR_STYLES, [0.18, 0.14, 0.15, 0.11, 0.1, 0.09, 0.09, 0.1, 0.04])
    look["outfit"] = pick(OUTFITS, [0.22, 0.13, 0.15, 0.2, 0.11, 0.1, 0.09])
    # Clothes are told apart from the skin and from one another.
    taken = [SKINS[look["skin"]]]
    for piece in ("top", "bottom", "inner", "trim", "shoe", "hat_colour"):
        apart = [name for name, tone in COLOURS.items() if min(np.linalg.norm(np.subtract(tone, other)) for other in taken) > 62]
        look[piece] = pick(apart or COLOURS)
        if piece in ("top", "bottom"):
            taken.append(COLOURS[look[piece]])
    look["pattern"] = pick(PATTERNS, [0.44, 0.2, 0.08, 0.12, 0.16])
    look["sleeve"] = float(rng.choice([0.0, 0.42, 1.0, 2.0], p=[0.16, 0.36, 0.1, 0.38]))  # in bones from the shoulder
    if look["outfit"] in ("coat and trousers", "hoodie and trousers"):
        look["sleeve"] = 2.0
    look["hem"] = float(rng.uniform(0.55, 1.55))  # skirts, in bones from the hip
    look["flare"] = float(rng.uniform(1.15, 2.0))
    look["shoes"] = pick(SHOES, [0.36, 0.4, 0.24])
    look["hat"] = pick(HATS, [0.66, 0.11, 0.1, 0.06, 0.07])
    if look["hat"] != "none" and look["hair_style"] in ("afro", "bun", "spiky"):
        look["hat"] = "none"
    look["glasses"] = bool(rng.random() < 0.14)
    look["beard"] = bool(
        build in ("average", "stocky", "long-limbed") and look["hair_style"] in ("short", "bald") and rng.random() < 0.3
    )
    look["eye"] = [int(c) for c in rng.choice([(70, 46, 34), (60, 100, 160), (70, 120, 80), (40, 36, 44)])]
    look["light"] = {
        "from": [float(rng.uniform(-0.8, 0.8)), float(rng.uniform(0.45, 0.9)), float(rng.uniform(0.5, 0.9))],
        "contrast": float(rng.uniform(0.26, 0.46)),
        "tint": [float(c) for c in 1 + rng.normal(0, 0.025, 3)],
        "ink": float(rng.uniform(0.35, 0.8)),
    }
    look["jitter"] = {
        name: [float(c) for c in rng.normal(0, 2 if name == "skin" else 4, 3)]
        for name in ("top", "bottom", "shoe", "trim", "hat_colour", "inner", "skin", "hair")
    }
    look["backdrop"] = sample_backdrop(rng)
    return look


def _body(rng, build):
    """Lengths relative to one another, then scaled to a standing height of 1, and girths (half widths)."""
    u = lambda low, high: float(rng.uniform(low, high))
    share = {
        "child-like": (0.195, 0.25),
        "average": (0.13, 0.165),
        "long-limbed": (0.115, 0.14),
        "stocky": (0.14, 0.18),
        "big-headed": (0.25, 0.33),
    }
    head = u(*share[build])  # height of the head
    rest = 1 - head
    legs = {
        "child-like": (0.50, 0.55),
        "average": (0.545, 0.59),
        "long-limbed": (0.59, 0.63),
        "stocky": (0.50, 0.55),
        "big-headed": (0.48, 0.56),
    }
    leg = rest * u(*legs[build])
    neck = rest * u(0.058, 0.078)
    torso = rest - leg - neck
    ankle = 0.048 * u(0.85, 1.15)
    slim = {"child-like": 1.05, "average": 1.0, "long-limbed": 0.82, "stocky": 1.32, "big-headed": 1.08}[build] * u(0.9, 1.12)
    arm = (0.9 * torso + 0.22 * leg) * u(0.93, 1.05) * (1.06 if build == "long-limbed" else 1.0)
    shoulder = 0.112 * slim**0.5 * u(0.92, 1.12) * (0.9 if head > 0.2 else 1.0)
    wide = u(0.72, 0.84)
    split = u(0.50, 0.53)
    return {
        "head": [head / 2 * wide, head / 2, head / 2 * u(0.82, 0.9)],
        "chin": u(-0.04, 0.16),
        "neck": neck,
        "chest": torso * 0.62,
        "belly": torso * 0.38,
        "shoulder": shoulder,
        "hip": 0.060 * slim**0.5 * u(0.9, 1.15),
        "arm": [arm * split, arm * (1 - split)],
        "hand": 0.098 * u(0.92, 1.1) * (0.92 if head > 0.2 else 1.0),
        "leg": [(leg - ankle) * 0.51, (leg - ankle) * 0.49],
        "ankle": ankle,
        "foot": 0.135 * u(0.9, 1.12),
        "arm_girth": [0.029 * slim * u(0.9, 1.1), 0.021 * slim**0.7],
        "leg_girth": [0.050 * slim * u(0.92, 1.08), 0.027 * slim**0.7],
        "neck_girth": 0.030 * slim**0.7,
        "chest_girth": shoulder * u(0.86, 0.98),
        "waist_girth": 0.078 * slim * u(0.88, 1.12),
        "hip_girth": 0.098 * slim * u(0.95, 1.1),
        "depth": u(0.60, 0.72),
    }


def proportions(look):
    """The skeleton's lengths of a look."""
    body = look["body"]
    names = ("head", "chin", "neck", "chest", "belly", "shoulder", "hip", "arm", "hand", "leg", "ankle", "foot")
    return Proportions(**{name: tuple(body[name]) if isinstance(body[name], list) else body[name] for name in names})


def colour(look, name):
    """RGB as floats of `skin`, `hair`, or a piece of clothing (`top`, `bottom`, `shoe`, `trim`, `hat_colour`, `inner`)."""
    table = {"skin": SKINS, "hair": HAIRS}.get(name, COLOURS)
    return np.clip(np.array(table[look[name]], dtype=np.float64) + look["jitter"][name], 12, 252)


def clothes(look):
    """The clothes in words, e.g. "a red striped shirt and blue trousers"."""
    pattern = "" if look["pattern"] == "plain" else look["pattern"] + " "
    top, bottom, inner = look["top"], look["bottom"], look["inner"]
    sleeves = {0.0: "sleeveless ", 2.0: "long-sleeved "}.get(look["sleeve"], "")
    return {
        "dress": f"a {top} {pattern}dress",
        "coat and trousers": f"a long {top} coat over a {inner} shirt and {bottom} trousers",
        "hoodie and trousers": f"a {top} {pattern}hoodie and {bottom} trousers",
        "overalls": f"{bottom} overalls over a {top} {pattern}shirt",
    }.get(look["outfit"]) or f"a {sleeves}{top} {pattern}shirt and {_article(bottom, look['outfit'].split()[-1])}"


def _article(tone, noun):
    return f"a {tone} {noun}" if noun == "skirt" else f"{tone} {noun}"


def prompt(look, move):
    """An English description of a look in its backdrop doing `move`; every word of it can be checked in the picture."""
    hair = "a bald head" if look["hair_style"] == "bald" else f"{look['hair']} {look['hair_style']} hair"
    hair = {
        "ponytail": f"a {look['hair']} ponytail",
        "pigtails": f"{look['hair']} pigtails",
        "bun": f"{look['hair']} hair in a bun",
        "afro": f"a {look['hair']} afro",
    }.get(look["hair_style"], hair)
    beard = f" and a {look['hair']} beard" if look["beard"] else ""
    hat = "" if look["hat"] == "none" else f", a {look['hat_colour']} {look['hat']}"
    glasses = ", glasses" if look["glasses"] else ""
    article = "An" if look["build"][0] in "aeiou" else "A"
    person = f"{article} {look['build']} puppet with {look['skin']} skin and {hair}{beard}"
    text = f"{person}, wearing {clothes(look)}, {look['shoe']} {look['shoes']}{hat}{glasses}"
    text = text.replace("a orange", "an orange")
    return f"{text}, {move}, {look['backdrop']['words']}."
