"""Expected values of the evaluation's metrics: python tests/reference/make_eval.py → tests/fixtures/eval/metrics.json

Pictures are a formula, so that the tests make the same ones. SSIM is written with scipy's correlation, colours with the
published formulas (CIE 142-2001) on OpenCV-free sRGB, joints aside: independent of the Rust code.
"""

import json
import math
from pathlib import Path

import numpy as np
from scipy.ndimage import correlate1d

OUT = Path(__file__).resolve().parent.parent / "fixtures" / "eval" / "metrics.json"
WIDTH, HEIGHT, FRAMES = 26, 21, 4


def clip(k):
    """Frames [T, H, W, 3]: levels that every language computes alike, with edges and motion."""
    t, y, x, c = np.indices((FRAMES, HEIGHT, WIDTH, 3))
    smooth = (x * 7 + y * 5 + c * 40 + t * 3 * k) % 256
    edge = ((x + t) // 6 + y // 5) % 2 * 60
    return ((smooth // 2 + edge + k * ((x * y + t) % 11)) % 256).astype(np.uint8)


def mask():
    t, y, x = np.indices((FRAMES, HEIGHT, WIDTH))
    return (x - 12 - t) ** 2 + (y - 10) ** 2 < 36


def psnr(a, b, m=None):
    error = (a.astype(float) - b) ** 2
    return 10 * math.log10(255**2 / error[m].mean() if m is not None else 255**2 / error.mean())


def ssim(a, b, m=None):
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()
    blur = lambda v: correlate1d(correlate1d(v, taps, axis=0), taps, axis=1)[5:-5, 5:-5]
    values = []
    for t in range(FRAMES):
        x, y = (f[t].astype(float) @ [0.299, 0.587, 0.114] for f in (a, b))
        mx, my = blur(x), blur(y)
        vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        s = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
        values.append(s.mean() if m is None else s[m[t][5:-5, 5:-5]].mean())
    return float(np.mean(values))


def second(v):
    v = v.astype(float)
    return v[:-2] - 2 * v[1:-1] + v[2:]


def background_jitter(a, m):
    still = ~(m[:-2] | m[1:-1] | m[2:])
    return float(np.abs(second(a))[still].mean())


def lab(rgb):
    v = rgb / 255.0
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    ).T
    r = xyz / np.array([0.95047, 1.0, 1.08883])
    f = np.where(r > (6 / 29) ** 3, np.cbrt(r), r / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def ciede2000(p, q):
    (l1, a1, b1), (l2, a2, b2) = p, q
    c = (math.hypot(a1, b1) + math.hypot(a2, b2)) / 2
    g = 0.5 * (1 - math.sqrt(c**7 / (c**7 + 25**7)))
    a1, a2 = a1 * (1 + g), a2 * (1 + g)
    c1, c2 = math.hypot(a1, b1), math.hypot(a2, b2)
    hue = lambda a, b: math.degrees(math.atan2(b, a)) % 360 if a or b else 0.0
    h1, h2 = hue(a1, b1), hue(a2, b2)
    turn = 0.0 if c1 * c2 == 0 else (h2 - h1 + 180) % 360 - 180
    dl, dc, dh = l2 - l1, c2 - c1, 2 * math.sqrt(c1 * c2) * math.sin(math.radians(turn / 2))
    lm, cm = (l1 + l2) / 2, (c1 + c2) / 2
    hm = h1 + h2 if c1 * c2 == 0 else ((h1 + h2) / 2 if abs(h1 - h2) <= 180 else ((h1 + h2 + 360) / 2 if h1 + h2 < 360 else (h1 + h2 - 360) / 2))
    cos = lambda d: math.cos(math.radians(d))
    t = 1 - 0.17 * cos(hm - 30) + 0.24 * cos(2 * hm) + 0.32 * cos(3 * hm + 6) - 0.20 * cos(4 * hm - 63)
    sl = 1 + 0.015 * (lm - 50) ** 2 / math.sqrt(20 + (lm - 50) ** 2)
    sc, sh = 1 + 0.045 * cm, 1 + 0.015 * cm * t
    rc = 2 * math.sqrt(cm**7 / (cm**7 + 25**7))
    rt = -math.sin(math.radians(60 * math.exp(-(((hm - 275) / 25) ** 2)))) * rc
    return math.sqrt((dl / sl) ** 2 + (dc / sc) ** 2 + (dh / sh) ** 2 + rt * (dc / sc) * (dh / sh))


def main():
    # Pairs 1 and 17 of the test data of Sharma, Wu, Dalal (2005).
    assert abs(ciede2000((50, 2.6772, -79.7751), (50, 0, -82.7485)) - 2.0425) < 1e-4
    assert abs(ciede2000((50, 2.5, 0), (73, 25, -18)) - 27.1492) < 1e-4
    a, b, m = clip(1), clip(3), mask()
    colours = [ciede2000(p, q) for p, q in zip(lab(a[m].astype(float)), lab(b[m].astype(float)))]
    expected = {
        "psnr": psnr(a, b),
        "psnr_figure": psnr(a, b, m),
        "ssim": ssim(a, b),
        "ssim_figure": ssim(a, b, m),
        "jitter": float(np.abs(second(a) - second(b)).mean()),
        "background_jitter": background_jitter(a, m),
        "identity_pixels": float(np.mean(colours)),
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
    print(expected)


if __name__ == "__main__":
    main()
