"""A puppet's surfaces in one pose: flesh, clothes that follow it, shoes; the head is in head.py."""

import numpy as np

from .head import build_head
from .look import colour
from .mesh import Mesh, around, disc, fingers, limb, loft
from .skeleton import SIDES

_AROUND = 28


def build(look, j, t, face):
    """All faces of pose `t`; `face` gives mouth, smile, blink and brow (0 where missing)."""
    mesh = Mesh()
    tone = {name: colour(look, name) for name in ("skin", "hair", "top", "bottom", "shoe", "trim", "hat_colour", "inner")}
    torso = _Torso(look, j, t)
    _legs(mesh, look, tone, j, t)
    _trunk(mesh, look, tone, torso)
    _arms(mesh, look, tone, j, t)
    build_head(mesh, look, tone, j, t, face)
    return mesh


class _Torso:
    """The trunk's shape: a soft column from the neck to the hips, bent at the waist."""

    def __init__(self, look, j, t):
        p, body = j.proportions, look["body"]
        self.length = p.chest + p.belly
        self.low = 0.75 * p.hip  # below the hip joints
        self.j, self.t, self.p = j, t, p
        deep = body["depth"]
        chest, waist, hips = (
            body["chest_girth"],
            min(body["waist_girth"], body["hip_girth"] * 1.12),
            max(body["hip_girth"], p.hip + 0.75 * body["leg_girth"][0]),
        )
        neck = body["neck_girth"]
        # Sleeves end in balls about the shoulders: the shoulder line is as high above the joints.
        top = self.top = (1.05 * body["arm_girth"][0] + 0.006) / self.length
        # Depth below the neck in torso lengths, half width, half depth.
        plan = np.array(
            [
                (-top - 0.10, neck * 1.0, neck * 1.0),
                (-top - 0.05, neck * 1.22, neck * 1.15),
                (-top, neck * 1.2 + p.shoulder * 0.22, chest * deep * 0.55),
                (-0.55 * top, p.shoulder * 0.84, chest * deep * 0.74),
                (0.0, p.shoulder * 1.0, chest * deep * 0.88),
                (0.20, chest * 1.0, chest * deep),
                (0.34, chest * 0.95, chest * deep * 0.98),
                (0.52, (chest * 0.4 + waist * 0.6), waist * 0.80),
                (0.66, waist, waist * 0.78),
                (0.80, (waist + hips) / 2, hips * 0.74),
                (0.93, hips, hips * 0.80),
                (1.02, hips, hips * 0.80),
                (1.02 + 0.55 * self.low / self.length, hips * 0.93, hips * 0.72),
                (1.02 + self.low / self.length, hips * 0.6, hips * 0.45),
                (1.05 + 1.1 * self.low / self.length, hips * 0.2, hips * 0.2),
            ]
        )
        self.plan = plan

    def rings(self, depths, grow=0.0):
        """Rings at depths (torso lengths below the neck; [R], or [R, _AROUND] to vary around), `grow` wider than the body."""
        depths = np.asarray(depths, dtype=np.float64)
        if depths.ndim == 1:
            depths = np.repeat(depths[:, None], _AROUND, 1)
        wide = np.interp(depths, self.plan[:, 0], self.plan[:, 1]) + grow
        deep = np.interp(depths, self.plan[:, 0], self.plan[:, 2]) + grow
        centres, frames = (a.reshape(depths.shape + a.shape[1:]) for a in self.spine(depths.ravel()))
        s, c = around(_AROUND)
        norm = (np.abs(s) ** 2.3 + np.abs(c) ** 2.3) ** (1 / 2.3)
        return centres + (wide * s / norm)[..., None] * frames[..., 0] + (deep * c / norm)[..., None] * frames[..., 2]

    def spine(self, depths):
        j, t = self.j, self.t
        s = (np.asarray(depths) * self.length)[:, None]
        k = s / self.length
        k = np.clip((k - 0.35) / 0.5, 0, 1)
        k = k * k * (3 - 2 * k)
        upper, lower = j.chest_frame[t], j.pelvis_frame[t]
        centres = (1 - k) * (j.neck[t] - s * upper[:, 1]) + k * (j.pelvis[t] + (self.length - s) * lower[:, 1])
        up = (1 - k) * upper[:, 1] + k * lower[:, 1]
        up /= np.linalg.norm(up, axis=1, keepdims=True)
        left = (1 - k) * upper[:, 0] + k * lower[:, 0]
        left -= (left * up).sum(1, keepdims=True) * up
        left /= np.linalg.norm(left, axis=1, keepdims=True)
        return centres, np.stack([left, up, np.cross(left, up)], 2)


def _pattern(look, tone, rings, count, base="top"):
    """Colours [rings, count, 3] of a piece of clothing; dots come apart. Coarse, so that small pictures show them."""
    out = np.broadcast_to(tone[base], (rings, count, 3)).copy()
    kind = look["pattern"]
    r, s = np.arange(rings)[:, None], np.arange(count)[None]
    if kind == "striped":
        on = (r // 4 % 2 == 1) & (s >= 0)
    elif kind == "pinstriped":
        on = (s % (count // 4) < 2) & (r >= 0)
    elif kind == "checked":
        on = (r // 5 + s // (count // 4)) % 2 == 1
    else:
        return out
    out[on] = tone["trim"]
    return out


def _dots(mesh, look, tone, grid, every=(5, 7), size=0.03, skip=lambda r, s: False):
    """Round dots on a grid's surface, staggered."""
    if look["pattern"] != "dotted":
        return
    rows, count = grid.shape[:2]
    shapes = []
    for k, r in enumerate(range(2, rows - 1, every[0])):
        for s in range((k % 2) * every[1] // 2, count, every[1]):
            if skip(r, s):
                continue
            a = grid[r, (s + 1) % count] - grid[r, s - 1]
            b = grid[r - 1, s] - grid[r + 1, s]
            a, b = a / max(np.linalg.norm(a), 1e-9), b / max(np.linalg.norm(b), 1e-9)
            out = np.cross(a, b)
            shapes.append(disc(grid[r, s] + 0.003 * out, size * a, size * b, 8)[0])
    mesh.faces(np.array(shapes), tone["trim"], bias=0.012)


def _trunk(mesh, look, tone, torso):
    outfit = look["outfit"]
    s, c = around(_AROUND)
    # Skin at the collar; its edge dips in front.
    dip = (0.13 if look["sleeve"] == 0 else 0.06) + torso.top
    collar = -torso.top - 0.01 + dip * np.clip(1 - (s / 0.75) ** 2, 0, 1) * (c > 0)
    nape = np.linspace(-torso.top - 0.1, collar, 4)
    mesh.grid(torso.rings(nape), tone["skin"])
    depth = np.concatenate([np.linspace(-torso.top, 0.08, 6), np.linspace(0.12, 1.0, 21), torso.plan[-4:, 0]])
    base = torso.rings(np.maximum(depth[:, None], collar))
    middle = (depth[1:] + depth[:-1]) / 2
    # Trousers, shorts or bare hips at the bottom; the top's shirt above; skin at the collar.
    under = tone["bottom"] if outfit != "dress" else tone["top"]
    colours = np.broadcast_to(under, (len(depth) - 1, _AROUND, 3)).copy()
    shirt = _pattern(look, tone, len(depth) - 1, _AROUND)
    if outfit == "coat and trousers":
        shirt[:] = tone["inner"]
    waist = 0.84 if outfit in ("shirt and skirt", "overalls") else 0.94
    colours[middle < waist] = shirt[middle < waist]
    if outfit == "overalls":
        front = (np.abs(s) < 0.62)[None] & (c > 0)[None] & (middle > 0.34)[:, None]
        straps = (np.abs(np.abs(s) - 0.42) < 0.13)[None] & (middle > 0.0)[:, None] & (middle <= 0.5)[:, None]
        colours[front | straps | np.broadcast_to((middle > 0.72)[:, None], front.shape)] = tone["bottom"]
    mesh.grid(base, colours)
    if outfit in ("shirt and trousers", "shirt and shorts", "overalls", "dress", "shirt and skirt", "hoodie and trousers"):
        rows = [i for i, d in enumerate(depth) if 0.1 < d < waist]
        if outfit != "overalls":
            _dots(mesh, look, tone, base[rows[0] : rows[-1] + 1])
    if outfit in ("hoodie and trousers", "coat and trousers"):
        _jacket(mesh, look, tone, torso)
    if outfit in ("dress", "shirt and skirt", "coat and trousers"):
        _skirt(mesh, look, tone, torso)
    elif outfit != "overalls":
        belt = torso.rings([0.925, 0.955], 0.003)
        mesh.grid(belt, tone["bottom"] * 0.7, bias=0.004)


def _jacket(mesh, look, tone, torso):
    """An outer layer over the shirt; a coat is open in front."""
    coat = look["outfit"].startswith("coat")
    depth = np.concatenate([np.linspace(-torso.top, 0.08, 6), np.linspace(0.12, 0.86 if coat else 1.08, 20)])
    grid = torso.rings(depth, 0.010)
    colours = np.broadcast_to(tone["top"], (len(depth) - 1, _AROUND, 3)).copy()
    if not coat:
        colours = _pattern(look, tone, len(depth) - 1, _AROUND)
        colours[-2:] = tone["top"] * 0.82
        mesh.grid(grid, colours, bias=0.002)
        _dots(mesh, look, tone, grid[2:-3])
        pocket = torso.rings([0.68, 0.9], 0.015)
        mesh.grid(np.concatenate([pocket[:, -4:], pocket[:, :5]], 1), tone["top"] * 0.86, bias=0.006, closed=False)
        # The hood lies on the back.
        j, t = torso.j, torso.t
        hood = loft(
            *_stack(j.neck[t] + j.chest_frame[t] @ np.array([0, 0.03, -0.035]), j.chest_frame[t], [0.035, 0.02, -0.01, -0.035]),
            np.array([0.045, 0.07, 0.072, 0.04]),
            np.array([0.03, 0.045, 0.046, 0.03]),
            16,
        )
        mesh.grid(hood, tone["top"] * 0.9)
        return
    edge = 2
    mesh.grid(grid[:, edge : _AROUND - edge + 1], colours[:, edge : _AROUND - edge], bias=0.004, double=True, closed=False)
    for strip in (grid[:12, edge : edge + 2], grid[:12, _AROUND - edge - 1 : _AROUND - edge + 1]):
        mesh.grid(strip, tone["trim"], bias=0.010, double=True, closed=False)


def _stack(centre, frame, heights):
    heights = np.asarray(heights)[:, None]
    return centre + heights * frame[:, 1], np.broadcast_to(frame, (len(heights), 3, 3))


def _skirt(mesh, look, tone, torso):
    """A skirt, the lower half of a dress, or a coat's tails: wide enough for the thighs wherever they go."""
    j, t, p = torso.j, torso.t, torso.p
    outfit = look["outfit"]
    base = "bottom" if outfit == "shirt and skirt" else "top"
    coat = outfit.startswith("coat")
    hem = max(look["hem"], 0.8) if coat else look["hem"]
    rows = 15
    top_depth = 0.82
    s, c = around(_AROUND)
    pelvis = j.pelvis_frame[t]
    start = torso.rings([top_depth], 0.012 if coat else 0.006)[0]
    drop = (1 - top_depth) * torso.length
    girth = look["body"]["leg_girth"]
    full = hem * p.leg[0]
    grid = [start]
    hips = look["body"]["hip_girth"]
    way = np.stack([s, c], 1)
    turned = pelvis[:, [0, 2]]
    # Cloth hangs down rather than along the body.
    down = -(0.35 * pelvis[:, 1] + 0.65 * np.array([0, 1.0, 0]))
    down /= np.linalg.norm(down)
    # Points along both legs as far as the hem reaches, and how far below the hips each is.
    along = np.linspace(0.1, min(hem, 1.9), 14)
    spots = []
    for i in (0, 1):
        bone = j.knee[i][t] - j.hip[i][t], j.ankle[i][t] - j.knee[i][t]
        spots.append(j.hip[i][t] + np.minimum(along, 1)[:, None] * bone[0] + np.maximum(along - 1, 0)[:, None] * bone[1])
    spots = np.concatenate(spots) - j.pelvis[t]
    thick = np.tile(np.interp(along, [0, 1, 2], [girth[0], 0.45 * girth[0] + 0.55 * girth[1], girth[1]]), 2) * 1.1 + 0.010
    drops = spots @ down - thick
    for k in range(1, rows):
        q = k / (rows - 1)
        below = q * (full + drop) - drop
        centre = j.pelvis[t] + down * below
        flare = (1.15 if coat else look["flare"]) - 1
        over = drops <= below
        need = (way @ ((spots[over] - down * below) @ turned).T + thick[over]).max(1) if over.any() else np.zeros(_AROUND)
        wide = hips * (1.0 + flare * q) + 0.010
        deep = hips * 0.82 * (1.0 + flare * q) + 0.010
        reach = 1 / np.sqrt((s / wide) ** 2 + (c / deep) ** 2)
        fold = 1 + 0.035 * q * np.sin(7 * np.arctan2(s, c) + look["seed"] % 7) * (look["flare"] > 1.4)
        reach = np.maximum(reach * fold, need)
        if k <= 3:
            own = torso.rings([min(top_depth + q * (full + drop) / torso.length, 1.03)], 0.006)[0]
            blend = k / 4
            grid.append(own * (1 - blend) + blend * (centre + reach[:, None] * (way @ turned.T)))
        else:
            grid.append(centre + reach[:, None] * (way @ turned.T))
    grid = np.array(grid)
    colours = np.broadcast_to(tone[base], (rows - 1, _AROUND, 3)).copy()
    if not coat and outfit == "dress":
        colours = _pattern(look, tone, rows - 1, _AROUND, base)
        _dots(mesh, look, tone, grid[1:])
    colours[-1] = tone["trim"] if not coat else tone["top"] * 0.85
    if coat:
        edge = 2
        mesh.grid(grid[:, edge : _AROUND - edge + 1], colours[:, edge : _AROUND - edge], bias=0.004, double=True, closed=False)
    else:
        mesh.grid(grid, colours, bias=0.002, double=True)
        if outfit == "dress":
            mesh.grid(torso.rings([0.79, 0.84], 0.010), tone["trim"], bias=0.006)


def _legs(mesh, look, tone, j, t):
    outfit, girth = look["outfit"], look["body"]["leg_girth"]
    knee = girth[0] * 0.45 + girth[1] * 0.55
    long = outfit in ("shirt and trousers", "coat and trousers", "hoodie and trousers", "overalls")
    for i, (_, s) in enumerate(SIDES):
        hip, kn, ankle = j.hip[i][t], j.knee[i][t], j.ankle[i][t]
        thigh, shin = j.thigh_frame[i][t], j.shin_frame[i][t]
        if long:
            cloth = tone["bottom"]
            mesh.grid(limb(hip, kn, thigh, (girth[0], knee * 1.06), 5, 14), cloth)
            cuff = 0.94 if look["shoes"] != "boots" else 0.72
            end = kn + (ankle - kn) * cuff
            mesh.grid(limb(kn, end, shin, (knee * 1.06, girth[1] * 1.22), 5, 14, (True, False)), cloth)
            mesh.grid(
                limb(
                    end - (ankle - kn) * 0.05,
                    end + (ankle - kn) * 0.01,
                    shin,
                    (girth[1] * 1.27, girth[1] * 1.27),
                    2,
                    14,
                    (False, False),
                ),
                cloth * 0.82,
                bias=0.003,
            )
        else:
            shorts = outfit == "shirt and shorts"
            # Under shorts the skin begins half way down, so that it never shows through them.
            start = hip + (kn - hip) * (0.5 if shorts else 0.0)
            mesh.grid(
                limb(start, kn, thigh, ((girth[0] + knee) / 2 if shorts else girth[0] * 0.97, knee), 5, 14, (not shorts, True)),
                tone["skin"],
            )
            if shorts:
                far = hip + (kn - hip) * 0.72
                mesh.grid(
                    limb(hip, far, thigh, (girth[0] * 1.06, knee * 1.36), 5, 14, (True, False)),
                    tone["bottom"],
                    bias=0.008,
                    double=True,
                )
        if not long or look["shoes"] == "boots":
            mesh.grid(limb(kn, ankle, shin, (knee, girth[1]), 6, 14, bulge=0.16), tone["skin"] if not long else tone["bottom"])
        if not long and look["shoes"] == "sneakers":
            mesh.grid(
                limb(kn + (ankle - kn) * 0.76, ankle, shin, (girth[1] * 1.18, girth[1] * 1.1), 4, 14, (False, True)),
                (240, 240, 238),
            )
        _shoe(mesh, look, tone, j, t, i, s)


def _shoe(mesh, look, tone, j, t, i, s):
    p, frame, ankle = j.proportions, j.foot_frame[i][t], j.ankle[i][t]
    girth = look["body"]["leg_girth"][1]
    foot, sole = p.foot, p.ankle
    # Rings from the heel to the toes: place along, height of the middle, half width, half height.
    plan = np.array(
        [
            (-0.305, -0.57, 0.005, 0.01),
            (-0.30, -0.56, 0.06, 0.20),
            (-0.27, -0.50, 0.15, 0.42),
            (-0.16, -0.40, 0.19, 0.58),
            (0.0, -0.36, 0.205, 0.62),
            (0.2, -0.45, 0.21, 0.52),
            (0.42, -0.58, 0.235, 0.40),
            (0.62, -0.64, 0.235, 0.34),
            (0.76, -0.67, 0.18, 0.28),
            (0.82, -0.70, 0.08, 0.16),
            (0.835, -0.71, 0.005, 0.01),
        ]
    )
    inward = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.01, 0.03, 0.035, 0.02, 0.01, 0.01]) * s * foot
    # Blown up a little: puppets have sturdy feet.
    centres = ankle + np.stack([inward, plan[:, 1] * sole, plan[:, 0] * foot], 1) @ frame.T
    axes = np.stack([frame[:, 0], -frame[:, 2], frame[:, 1]], 1)
    frames = np.broadcast_to(axes, (len(plan), 3, 3))
    wide, tall = plan[:, 2] * foot * 1.12, plan[:, 3] * sole
    grid = loft(centres, frames, wide, tall, 14, 2.4)
    sn, cs = around(14)
    colours = np.broadcast_to(tone["shoe"], (len(plan) - 1, 14, 3)).copy()
    if look["shoes"] == "sneakers":
        colours[:, (cs + np.roll(cs, -1)) / 2 < -0.45] = (246, 246, 242)
        colours[-2:] = (246, 246, 242)
        colours[4:6, cs > 0.85] = tone["trim"]
    else:
        colours[:, (cs + np.roll(cs, -1)) / 2 < -0.6] = tone["shoe"] * 0.55
    mesh.grid(grid, colours)
    if look["shoes"] == "boots":
        kn = j.knee[i][t]
        mesh.grid(
            limb(kn + (ankle - kn) * 0.58, ankle, j.shin_frame[i][t], (girth * 1.5, girth * 1.34), 5, 14, (False, True)),
            tone["shoe"],
            bias=0.008,
            double=True,
        )


def _arms(mesh, look, tone, j, t):
    upper, fore = look["body"]["arm_girth"]
    elbow = upper * 0.4 + fore * 0.6
    sleeve, outfit = look["sleeve"], look["outfit"]
    puffy = 1.25 if outfit in ("coat and trousers", "hoodie and trousers") else 1.12
    for i, (_, s) in enumerate(SIDES):
        shoulder, el, hand = j.shoulder[i][t], j.elbow[i][t], j.hand[i][t]
        arm, low, palm = j.arm_frame[i][t], j.fore_frame[i][t], j.hand_frame[i][t]
        wrist = hand[0]
        cloth = lambda rings: _pattern(look, tone, rings, 12) if outfit != "coat and trousers" else tone["top"]
        if sleeve < 1:
            # Under a sleeve the skin begins half way, so that it never shows through.
            half = sleeve / 2
            mesh.grid(
                limb(
                    shoulder + (el - shoulder) * half,
                    el,
                    arm,
                    (upper + (elbow - upper) * half, elbow),
                    5,
                    12,
                    (sleeve == 0, True),
                ),
                tone["skin"],
            )
        if sleeve > 0:
            end = shoulder + (el - shoulder) * min(sleeve, 1.0)
            width = upper * puffy + (elbow - upper) * min(sleeve, 1.0) * puffy
            rings = 8
            grid = limb(
                shoulder, end, arm, (upper * puffy, width if sleeve >= 1 else width * 1.12), rings, 12, (True, sleeve >= 1)
            )
            mesh.grid(grid, cloth(len(grid) - 1), bias=0.006 if sleeve < 1 else 0.0, double=sleeve < 1)
            if sleeve < 1:
                mesh.grid(
                    limb(end - (end - shoulder) * 0.1, end, arm, (width * 1.14, width * 1.15), 2, 12, (False, False)),
                    tone["trim"] if look["pattern"] == "plain" else tone["top"] * 0.85,
                    bias=0.004,
                )
        elif outfit in ("dress", "shirt and trousers", "shirt and shorts", "shirt and skirt", "overalls"):
            mesh.grid(
                limb(shoulder, shoulder + (el - shoulder) * 0.06, arm, (upper * 1.06, upper * 1.08), 2, 12, (True, False)),
                tone["top"],
            )
        if sleeve >= 2:
            end = el + (wrist - el) * 0.93
            grid = limb(el, end, low, (elbow * puffy, fore * 1.3 * puffy), 9, 12, (True, False))
            mesh.grid(grid, cloth(len(grid) - 1), double=True)
            mesh.grid(
                limb(end - (wrist - el) * 0.10, end, low, (fore * 1.36 * puffy, fore * 1.36 * puffy), 2, 12, (False, False)),
                tone["trim"],
                bias=0.003,
            )
            mesh.grid(limb(end - (wrist - el) * 0.1, wrist, low, (fore, fore), 2, 10), tone["skin"])
        else:
            mesh.grid(limb(el, wrist, low, (elbow, fore), 6, 12, bulge=0.10), tone["skin"])
        _hand(mesh, look, tone, j.proportions.hand, hand, palm, fore, s)


def _hand(mesh, look, tone, length, hand, frame, girth, s):
    along = np.array([-0.02, 0.10, 0.28, 0.46, 0.56]) * length
    across = np.array([0.0, 0.0, 0.005, 0.02, 0.02]) * length
    wide = np.array([0.17, 0.22, 0.27, 0.275, 0.20]) * length
    thick = np.array([0.13, 0.135, 0.13, 0.115, 0.07]) * length
    centres = hand[0] + np.stack([np.zeros(5), -along, across], 1) @ frame.T
    mesh.grid(loft(centres, np.broadcast_to(frame, (5, 3, 3)), thick, wide, 12), tone["skin"])
    tips = hand[1:].reshape(5, 4, 3)
    radius = 0.082 * length
    mesh.grid(fingers(tips, frame, radius), tone["skin"])
