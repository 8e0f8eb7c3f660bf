"""What a prompt says of a look, as classes, and prompts that say only some of it."""

import numpy as np

from puppets.backdrop import FLOORS, KINDS, WALLS
from puppets.look import BUILDS, COLOURS, HAIR_STYLES, HAIRS, HATS, PATTERNS, SHOES, SKINS, prompt, sample_look
from puppets.motion import LEG_MOVES
from puppets.moves import WORDS
from puppets.pairs import SPLITS, _seed

# Name: what a prompt can say; class 0 is "not said".
ATTRIBUTES = {
    "build": BUILDS,
    "skin": tuple(SKINS),
    "hair": tuple(HAIRS),
    "hair_style": HAIR_STYLES,
    "beard": ("beard",),
    "garment": ("shirt", "dress", "coat", "hoodie", "overalls"),
    "lower": ("trousers", "shorts", "skirt"),
    "top": tuple(COLOURS),
    "bottom": tuple(COLOURS),
    "inner": tuple(COLOURS),
    "pattern": PATTERNS[1:],
    "sleeve": ("sleeveless", "long-sleeved"),
    "shoe": tuple(COLOURS),
    "shoes": SHOES,
    "hat": HATS[1:],
    "hat_colour": tuple(COLOURS),
    "glasses": ("glasses",),
    "backdrop": KINDS,
    "wall": tuple(WALLS),
    "floor": tuple(FLOORS),
}
MOVES = tuple(LEG_MOVES.values()) + tuple(WORDS.values())
_SUBJECTS = ("puppet", "puppet", "puppet", "figure", "dancer", "person", "character", "woman", "man", "girl", "boy", "child")


def look_of(seed, split):
    """The reference's look of `puppets.pairs.sample_pair(seed, split)`, without making the pair."""
    return sample_look(_seed(np.random.default_rng([int(seed), SPLITS.index(split), 0x9A12]), split))


def move_of(look, text):
    """The move's words in a whole prompt of `look`."""
    before, after = prompt(look, "@").split("@")
    if not (text.startswith(before) and text.endswith(after)):
        raise ValueError(f"the prompt is not of this look: {text!r} lacks {before!r} or {after!r}")
    return text[len(before) : len(text) - len(after)]


def clauses(look):
    """[(words, {attribute: value})]: the parts of a prompt that can stand alone, without subject and move."""
    a = lambda words: f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
    parts = [(f"{look['skin']} skin", {"skin": look["skin"]})]
    tone, style = look["hair"], look["hair_style"]
    hair = {
        "ponytail": a(f"{tone} ponytail"),
        "pigtails": f"{tone} pigtails",
        "bun": f"{tone} hair in a bun",
        "afro": a(f"{tone} afro"),
        "bald": "a bald head",
    }.get(style, f"{tone} {style} hair")
    parts.append((hair, {"hair_style": style} | ({} if style == "bald" else {"hair": tone})))
    if look["beard"]:
        parts.append((a(f"{tone} beard"), {"beard": "beard", "hair": tone}))

    outfit = look["outfit"]
    pattern = {} if look["pattern"] == "plain" else {"pattern": look["pattern"]}
    print_ = "".join(f"{name} " for name in pattern.values())
    if outfit == "coat and trousers":
        parts.append((f"a long {look['top']} coat", {"garment": "coat", "top": look["top"]}))
        parts.append((a(f"{look['inner']} shirt"), {"inner": look["inner"]}))
    elif outfit == "overalls":
        parts.append((f"{look['bottom']} overalls", {"garment": "overalls", "bottom": look["bottom"]}))
        parts.append((a(f"{look['top']} {print_}shirt"), {"top": look["top"]} | pattern))
    elif outfit in ("dress", "hoodie and trousers"):
        noun = outfit.split()[0]
        parts.append((a(f"{look['top']} {print_}{noun}"), {"garment": noun, "top": look["top"]} | pattern))
    else:
        sleeve = {0.0: "sleeveless", 2.0: "long-sleeved"}.get(look["sleeve"])
        words = a(f"{sleeve + ' ' if sleeve else ''}{look['top']} {print_}shirt")
        parts.append((words, {"garment": "shirt", "top": look["top"]} | pattern | ({"sleeve": sleeve} if sleeve else {})))
    lower = outfit.split()[-1]
    if lower in ATTRIBUTES["lower"]:
        words = f"{look['bottom']} {lower}"
        parts.append((a(words) if lower == "skirt" else words, {"lower": lower, "bottom": look["bottom"]}))

    parts.append((f"{look['shoe']} {look['shoes']}", {"shoe": look["shoe"], "shoes": look["shoes"]}))
    if look["hat"] != "none":
        parts.append((a(f"{look['hat_colour']} {look['hat']}"), {"hat": look["hat"], "hat_colour": look["hat_colour"]}))
    if look["glasses"]:
        parts.append(("glasses", {"glasses": "glasses"}))
    back = look["backdrop"]
    said = {"backdrop": back["kind"]}
    said |= {name: back[name] for name in ("wall", "floor") if f" {back[name]} {_NOUN[name].get(back['kind'], '@')}" in back["words"]}
    parts.append((back["words"], said))
    return parts


_NOUN = {
    "wall": {"room": "wall", "studio": "studio", "brick wall": "brick", "tiled hall": "hall", "stage": "curtain", "wallpaper": "wallpaper"},
    "floor": {"room": "floor", "wallpaper": "floor"},
}


def facts(look):
    """{attribute: value} of everything that the whole prompt says of the look."""
    all_said = {"build": look["build"]}
    for _, said in clauses(look):
        all_said |= said
    return all_said


def classes(said):
    """[len(ATTRIBUTES)] class numbers, 0 where nothing is said."""
    return np.array([values.index(said[name]) + 1 if name in said else 0 for name, values in ATTRIBUTES.items()])


def moves_in(text):
    """[len(MOVES)] of 0 and 1. A move's words may be within another's, so longer ones are taken out first."""
    found = np.zeros(len(MOVES), np.float32)
    for i in sorted(range(len(MOVES)), key=lambda i: -len(MOVES[i])):
        if MOVES[i] in text:
            found[i] = 1
            text = text.replace(MOVES[i], "")
    return found


def fragment(rng, look, move):
    """(text, said, move words or ""): a prompt that says a random part of a look."""
    parts = clauses(look)
    if rng.random() < 0.3:  # "red shirt"
        words, said = parts[int(rng.integers(len(parts)))]
        for article in ("a ", "an "):
            words = words.removeprefix(article) if rng.random() < 0.6 else words
        return words, said, ""
    share = rng.uniform(0.25, 0.9)
    kept = [part for part in parts if rng.random() < share] or [parts[int(rng.integers(len(parts)))]]
    if rng.random() < 0.5:
        kept = [kept[i] for i in rng.permutation(len(kept))]
    said = {}
    for _, more in kept:
        said |= more
    move = move if rng.random() < 0.5 else ""
    words = [words for words, _ in kept] + [move] * bool(move)
    style = rng.random()
    if style < 0.25:  # a list
        return ", ".join(words), said, move
    subject = str(rng.choice(_SUBJECTS))
    if rng.random() < 0.4:
        subject, said = f"{look['build']} {subject}", said | {"build": look["build"]}
    article = "An" if subject[0] in "aeiou" else "A"
    link = str(rng.choice(["with", "in", "wearing", "has", ":"]))
    tail = str(rng.choice([".", ""]))
    return f"{article} {subject} {link} {', '.join(words)}{tail}".replace(" :", ":"), said, move
