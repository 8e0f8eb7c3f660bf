"""What puppets stand in front of: rooms, studios, floors, textures, outdoors; drawn once for a clip."""

import cv2
import numpy as np

# Wall and sky tones that clothes stand out from, with the names that prompts use.
WALLS = {
    "cream": (240, 228, 204),
    "pale blue": (190, 214, 232),
    "mint": (194, 226, 208),
    "peach": (246, 212, 188),
    "lilac": (212, 202, 232),
    "grey": (176, 180, 186),
    "yellow": (244, 222, 148),
    "rose": (236, 192, 198),
    "dark blue": (58, 72, 110),
    "plum": (92, 66, 96),
    "sage": (160, 180, 150),
}
FLOORS = {
    "wooden": (182, 138, 96),
    "grey": (150, 150, 152),
    "dark": (88, 78, 80),
    "beige": (214, 196, 168),
    "blue": (120, 146, 178),
}
KINDS = ("room", "studio", "brick wall", "tiled hall", "park", "beach", "stage", "wallpaper", "city at night", "mountains")


def sample_backdrop(rng):
    """A backdrop's plain description; `words` is how a prompt names it."""
    kind = str(rng.choice(KINDS))
    wall, floor = str(rng.choice(list(WALLS))), str(rng.choice(list(FLOORS)))
    words = {
        "room": f"in a room with a {wall} wall and a {floor} floor",
        "studio": f"in a {wall} studio",
        "brick wall": f"in front of a {wall} brick wall",
        "tiled hall": f"in a {wall} hall with a tiled floor",
        "park": "in a green park under a blue sky",
        "beach": "on a beach by the sea",
        "stage": f"on a stage with a {wall} curtain",
        "wallpaper": f"in front of striped {wall} wallpaper on a {floor} floor",
        "city at night": "in a city at night",
        "mountains": "in front of mountains",
    }[kind]
    return {
        "kind": kind,
        "wall": wall,
        "floor": floor,
        "words": words,
        "seed": int(rng.integers(1 << 31)),
        "vignette": float(rng.uniform(0, 0.25)),
    }


def draw_backdrop(spec, size, horizon, tint=(1, 1, 1)):
    """RGB uint8 [H, W, 3]; `size` is (width, height), `horizon` the row (pixels) where the floor begins."""
    width, height = size
    rng = np.random.default_rng([spec["seed"], 0xBAC])
    grid = 2
    canvas = _PAINTERS[spec["kind"]](
        rng, spec, width * grid, height * grid, float(np.clip(horizon, 0.3 * height, 0.93 * height)) * grid
    )
    image = cv2.resize(np.ascontiguousarray(canvas.astype(np.float32)), (width, height), interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[0:height, 0:width]
    r = np.hypot((x + 0.5) / width - 0.5, (y + 0.5) / height - 0.5)
    image *= (1 - spec["vignette"] * np.clip(r - 0.25, 0, 1) * 1.4)[..., None] * np.array(tint)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _ramp(h, w, top, bottom):
    t = np.linspace(0, 1, max(h, 1))[:, None, None]
    return np.repeat(np.array(top, float) * (1 - t) + np.array(bottom, float) * t, w, 1)


def _base(w, h, horizon, wall, floor, fade=0.9):
    k = int(horizon)
    image = np.empty((h, w, 3))
    image[:k] = _ramp(k, w, np.minimum(np.array(wall) * 1.05, 255), np.array(wall) * fade)
    image[k:] = _ramp(h - k, w, np.array(floor) * 0.84, np.minimum(np.array(floor) * 1.06, 255))
    return image


def _poly(image, points, colour):
    cv2.fillPoly(image, [np.rint(np.array(points)).astype(np.int32)], tuple(float(c) for c in colour), lineType=cv2.LINE_AA)


def _disc(image, x, y, a, b, colour):
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    _poly(image, np.stack([x + a * np.cos(angle), y + b * np.sin(angle)], 1), colour)


def _noise(rng, h, w, grain):
    coarse = rng.normal(0, 1, (max(2, h // grain), max(2, w // grain))).astype(np.float32)
    return cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC)[..., None]


def _planks(rng, image, horizon, tone, strength=0.10):
    """Boards that run towards a vanishing point."""
    h, w = image.shape[:2]
    k = int(horizon)
    y, x = np.mgrid[k:h, 0:w]
    depth = (y - horizon) / (h - horizon) * 0.55 + 0.45
    board = np.floor((x / w - 0.5) / depth * 9 + 50).astype(int)
    shade = rng.uniform(-strength, strength, 200)[np.clip(board, 0, 199)]
    edge = np.abs(((x / w - 0.5) / depth * 9 + 50) % 1 - 0.5) > 0.47
    image[k:] = np.array(tone) * (0.82 + 0.22 * (depth - 0.45) / 0.55)[..., None] * (1 + shade - 0.14 * edge)[..., None]


def _room(rng, spec, w, h, horizon):
    wall, floor = np.array(WALLS[spec["wall"]]), np.array(FLOORS[spec["floor"]])
    image = _base(w, h, horizon, wall, floor)
    if spec["floor"] in ("wooden", "dark", "beige"):
        _planks(rng, image, horizon, floor)
    skirting = np.minimum(wall * 1.1, 252)
    image[int(horizon - 0.022 * h) : int(horizon)] = skirting
    image[int(horizon) - 2 : int(horizon)] = wall * 0.7
    for _ in range(int(rng.integers(1, 4))):
        x, y, a, b = (
            rng.uniform(0.05, 0.8) * w,
            rng.uniform(0.06, 0.35) * h,
            rng.uniform(0.12, 0.28) * w,
            rng.uniform(0.1, 0.2) * h,
        )
        frame = wall * rng.uniform(0.5, 0.75)
        _poly(image, [(x, y), (x + a, y), (x + a, y + b), (x, y + b)], frame)
        m = 0.012 * w
        inside = rng.uniform(90, 240, 3)
        _poly(image, [(x + m, y + m), (x + a - m, y + m), (x + a - m, y + b - m), (x + m, y + b - m)], inside)
        _poly(
            image,
            [(x + m, y + b - m), (x + a * rng.uniform(0.3, 0.7), y + b * rng.uniform(0.3, 0.6)), (x + a - m, y + b - m)],
            inside * 0.75,
        )
    if rng.random() < 0.6:
        rug = rng.uniform(90, 230, 3)
        middle = horizon + (h - horizon) * 0.55
        for k, c in ((1.0, rug), (0.86, rug * 0.85), (0.5, np.minimum(rug * 1.12, 250))):
            _disc(image, w * 0.5, middle, 0.42 * w * k, (h - horizon) * 0.38 * k, c)
    return image


def _studio(rng, spec, w, h, horizon):
    wall = np.array(WALLS[spec["wall"]])
    image = _base(w, h, horizon, wall, np.minimum(wall * 1.02, 252))
    soft = int(0.12 * h) | 1
    image = cv2.GaussianBlur(image, (1, soft), 0, sigmaY=soft / 4)
    y, x = np.mgrid[0:h, 0:w]
    glow = np.exp(-(((x / w - rng.uniform(0.3, 0.7)) / 0.5) ** 2) - ((y / h - 0.35) / 0.5) ** 2)
    return np.minimum(image * (0.88 + 0.2 * glow[..., None]), 255)


def _brick(rng, spec, w, h, horizon):
    wall, k = np.array(WALLS[spec["wall"]]), int(horizon)
    image = _base(w, h, horizon, wall * 0.86, FLOORS[spec["floor"]])
    bw, bh = w / rng.uniform(6, 9), h / rng.uniform(22, 30)
    y, x = np.mgrid[0:k, 0:w]
    row = np.floor((horizon - y) / bh).astype(int)
    column = np.floor(x / bw + 0.5 * (row % 2)).astype(int)
    tone = rng.uniform(0.86, 1.06, (64, 32))[row % 64, column % 32]
    joint = (((horizon - y) / bh) % 1 < 0.10) | ((x / bw + 0.5 * (row % 2)) % 1 < 0.05)
    image[:k] *= np.where(joint, 0.8, tone)[..., None]
    return np.minimum(image, 255)


def _hall(rng, spec, w, h, horizon):
    wall = np.array(WALLS[spec["wall"]])
    image = _base(w, h, horizon, wall, (200, 200, 200))
    k = int(horizon)
    y, x = np.mgrid[k:h, 0:w]
    depth = (y - horizon) / (h - horizon) + 0.32
    u, v = (x / w - 0.5) / depth * 4.4 + 40, 2.3 / depth
    dark = ((np.floor(u) + np.floor(v * 1.6)) % 2)[..., None]
    a, b = wall * 0.62, np.minimum(wall * 1.0 + 14, 250)
    image[k:] = a * dark + b * (1 - dark)
    for i in range(int(rng.integers(2, 5))):
        x0 = w * (i + 0.3) / 4
        image[:k, int(x0) : int(x0 + 0.07 * w)] *= 0.92
    return image


def _park(rng, spec, w, h, horizon):
    image = _base(w, h, horizon, (150, 200, 240), (112, 170, 84), fade=1.08)
    image[: int(horizon)] = _ramp(int(horizon), w, (120, 182, 236), (214, 234, 244))
    for _ in range(3):
        x, y = rng.uniform(0, w), rng.uniform(0.05, 0.25) * h
        for _ in range(4):
            _disc(
                image,
                x + rng.normal(0, 0.06) * w,
                y + rng.normal(0, 0.01) * h,
                rng.uniform(0.05, 0.1) * w,
                rng.uniform(0.015, 0.03) * h,
                (246, 248, 250),
            )
    hill = np.linspace(0, w, 30)
    crest = horizon - h * (0.08 + 0.04 * np.sin(hill / w * rng.uniform(4, 8) + rng.uniform(0, 6)))
    _poly(image, [(0, horizon), *zip(hill, crest), (w, horizon)], (122, 176, 112))
    for x in rng.uniform(0, w, 5):
        s = rng.uniform(0.10, 0.2) * h
        _poly(
            image,
            [(x - 0.03 * s, horizon), (x + 0.03 * s, horizon), (x + 0.03 * s, horizon - s), (x - 0.03 * s, horizon - s)],
            (110, 80, 60),
        )
        green = np.array((70, 134, 76)) * rng.uniform(0.85, 1.15)
        for dx, dy, r in ((0, -1.1, 0.36), (-0.22, -0.9, 0.28), (0.22, -0.9, 0.28)):
            _disc(image, x + dx * s, horizon + dy * s, r * s, r * s, green * (1.06 - 0.1 * abs(dx)))
    k = int(horizon)
    image[k:] *= 1 + 0.05 * _noise(rng, h - k, w, 12)
    return np.clip(image, 0, 255)


def _beach(rng, spec, w, h, horizon):
    image = _base(w, h, horizon, (150, 206, 240), (232, 208, 158))
    k, sea = int(horizon), int(horizon - 0.2 * h)
    image[:sea] = _ramp(sea, w, (96, 176, 232), (206, 234, 246))
    image[sea:k] = _ramp(k - sea, w, (40, 120, 170), (110, 196, 206))
    _disc(image, rng.uniform(0.1, 0.9) * w, rng.uniform(0.06, 0.2) * h, 0.07 * w, 0.07 * w, (255, 240, 190))
    for y in np.linspace(sea + 4, k - 4, 5):
        x = rng.uniform(0, 0.7) * w
        _poly(image, [(x, y), (x + 0.25 * w, y), (x + 0.2 * w, y + 2), (x + 0.05 * w, y + 2)], (210, 238, 240))
    x = np.linspace(0, w, 40)
    foam = k + 0.008 * h * np.sin(x / w * 18 + rng.uniform(0, 6))
    _poly(image, [*zip(x, foam + 0.008 * h), *zip(x[::-1], foam[::-1] - 0.006 * h)], (246, 250, 248))
    image[k:] *= 1 + 0.025 * _noise(rng, h - k, w, 5)
    return np.clip(image, 0, 255)


def _stage(rng, spec, w, h, horizon):
    wall = np.array(WALLS[spec["wall"]]) * 0.72
    image = _base(w, h, horizon, wall, (120, 84, 60))
    _planks(rng, image, horizon, (132, 94, 66))
    k = int(horizon)
    x = np.arange(w) / w
    folds = 0.86 + 0.16 * np.sin(x * rng.uniform(50, 80) + 1.5 * np.sin(x * 9))
    image[:k] *= folds[None, :, None]
    y, x = np.mgrid[0:h, 0:w]
    for centre in (0.28, 0.72):
        spread = np.exp(-(((x / w - centre + (0.5 - centre) * y / h * 0.6) / (0.12 + 0.16 * y / h)) ** 2))
        image *= (0.84 + 0.24 * spread)[..., None]
    return np.minimum(image, 255)


def _paper(rng, spec, w, h, horizon):
    wall, k = np.array(WALLS[spec["wall"]]), int(horizon)
    image = _base(w, h, horizon, wall, FLOORS[spec["floor"]])
    band = (np.floor(np.arange(w) / w * rng.uniform(10, 18)) % 2)[None, :, None]
    image[:k] *= 1 - 0.1 * band
    image[int(horizon - 0.03 * h) : k] = np.minimum(wall * 0.72, 250)
    return image


def _city(rng, spec, w, h, horizon):
    image = _base(w, h, horizon, (40, 44, 90), (84, 86, 100))
    image[: int(horizon)] = _ramp(int(horizon), w, (28, 30, 70), (120, 86, 120))
    x = 0.0
    while x < w:
        bw, bh = rng.uniform(0.10, 0.2) * w, rng.uniform(0.25, 0.62) * h
        tone = np.array((44, 46, 72)) * rng.uniform(0.8, 1.5)
        _poly(image, [(x, horizon), (x, horizon - bh), (x + bw, horizon - bh), (x + bw, horizon)], tone)
        for wy in np.arange(horizon - bh + 0.03 * h, horizon - 0.05 * h, 0.045 * h):
            for wx in np.arange(x + 0.02 * w, x + bw - 0.03 * w, 0.04 * w):
                if rng.random() < 0.5:
                    _poly(
                        image,
                        [(wx, wy), (wx + 0.02 * w, wy), (wx + 0.02 * w, wy + 0.02 * h), (wx, wy + 0.02 * h)],
                        (236, 206, 130),
                    )
        x += bw
    k = int(horizon)
    image[k : k + int(0.02 * h)] = (150, 150, 156)
    return image


def _mountains(rng, spec, w, h, horizon):
    image = _base(w, h, horizon, (170, 200, 232), (150, 164, 112))
    image[: int(horizon)] = _ramp(int(horizon), w, (128, 176, 226), (240, 226, 214))
    for level, tone in ((0.42, (150, 160, 190)), (0.28, (118, 136, 160)), (0.13, (96, 128, 110))):
        x = np.linspace(0, w, 14)
        y = horizon - h * level * rng.uniform(0.45, 1.0, 14)
        _poly(image, [(0, horizon), *zip(x, y), (w, horizon)], tone)
    k = int(horizon)
    image[k:] *= 1 + 0.04 * _noise(rng, h - k, w, 10)
    return np.clip(image, 0, 255)


_PAINTERS = dict(zip(KINDS, (_room, _studio, _brick, _hall, _park, _beach, _stage, _paper, _city, _mountains)))
