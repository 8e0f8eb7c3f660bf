"""What happens to pictures before the pose networks see them: the engine's own preparation, and what training adds to it."""

import cv2
import numpy as np

# crates/pose/src/{crop,detector,sizes,keypoints}.rs
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
DEVIATION = np.array([58.395, 57.12, 57.375], np.float32)
PADDING = 1.25
GREY = 114
DETECT_SIDE = 1024.0


def _mirrored():
    """Which keypoint of the mirrored person each one is."""
    to = np.arange(133)
    pairs = [(i, i + 1) for i in range(1, 17, 2)] + [(17 + i, 20 + i) for i in range(3)] + [(91 + i, 112 + i) for i in range(21)]
    face = [(i, 16 - i) for i in range(8)] + [(17 + i, 26 - i) for i in range(5)] + [(31, 35), (32, 34)]
    face += [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]
    face += [(48, 54), (49, 53), (50, 52), (55, 59), (56, 58), (60, 64), (61, 63), (65, 67)]
    for a, b in pairs + [(23 + a, 23 + b) for a, b in face]:
        to[a], to[b] = b, a
    return to


MIRRORED = _mirrored()


def detect_size(width, height):
    """Width and height at which the networks see a picture."""
    scale = DETECT_SIDE / min(width, height)
    return int(np.rint(width * scale / 64) * 64), int(np.rint(height * scale / 64) * 64)


def box_of(mask):
    """x1, y1, x2, y2 of a figure, or None."""
    rows, columns = np.where((mask > 127).any(1))[0], np.where((mask > 127).any(0))[0]
    if len(rows) == 0:
        return None
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


def window(box, crop):
    """Centre and size of the rectangle that fills a crop of `crop` (height, width) pixels."""
    w, h = (box[2] - box[0]) * PADDING, (box[3] - box[1]) * PADDING
    aspect = crop[1] / crop[0]
    size = (w, w / aspect) if w > h * aspect else (h * aspect, h)
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]), np.array(size)


def crop_matrix(box, crop, angle=0.0):
    """(linear [2, 2], origin [2]) of the map from crop pixels to points of the picture, as the engine counts both."""
    centre, size = window(box, crop)
    c, s = np.cos(angle), np.sin(angle)
    linear = np.array([[c, -s], [s, c]]) * (size / (crop[1], crop[0]))
    return linear, centre - linear @ np.array([crop[1] / 2, crop[0] / 2])


def cut(picture, linear, origin, crop, cubic=True):
    """The crop [H, W, 3], black beyond the picture.

    The engine enlarges pictures before it cuts; in one step, the half pixel between its counting and OpenCV's is that of the larger one.
    """
    half = 0.5 - 0.5 * min(picture.shape[:2]) / DETECT_SIDE
    matrix = np.concatenate([linear, (origin - half)[:, None]], 1)
    flags = cv2.WARP_INVERSE_MAP | (cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR)
    return cv2.warpAffine(picture, matrix, (crop[1], crop[0]), flags=flags, borderMode=cv2.BORDER_CONSTANT)


def behind(rng, picture, mask, backdrop):
    """The figure before another backdrop."""
    height, width = picture.shape[:2]
    if rng.random() < 0.15:
        small = rng.integers(0, 256, (int(rng.integers(2, 12)), int(rng.integers(2, 12)), 3), dtype=np.uint8)
        backdrop = small
    backdrop = cv2.resize(backdrop, (width, height), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.5:
        backdrop = backdrop[:, ::-1]
    cover = mask[..., None].astype(np.float32) / 255
    return (picture * cover + backdrop * (1 - cover) + 0.5).astype(np.uint8)


def colours(rng, picture, strength=1.0):
    """Light, contrast, tints and mixed-up colours."""
    x = picture.astype(np.float32)
    if rng.random() < 0.8:
        x = x * (1 + strength * rng.uniform(-0.3, 0.3)) + strength * rng.uniform(-30, 30)
        x = x * (1 + strength * rng.uniform(-0.12, 0.12, 3)).astype(np.float32)
    if rng.random() < 0.4:
        grey = x.mean(2, keepdims=True)
        x = grey + (x - grey) * np.float32(rng.uniform(0, 1.6))
    if rng.random() < 0.15:
        x = x[..., rng.permutation(3)]
    return np.clip(x, 0, 255).astype(np.uint8)


def wear(rng, picture, strength=1.0):
    """What codecs, small models and poor cameras do: softness, low resolution, noise, blocks, ghosts."""
    height, width = picture.shape[:2]
    if rng.random() < 0.35 * strength:
        low = rng.uniform(1.2, 1.5 + 1.8 * strength)
        small = cv2.resize(picture, (max(int(width / low), 8), max(int(height / low), 8)), interpolation=cv2.INTER_AREA)
        picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC if rng.random() < 0.5 else cv2.INTER_LINEAR)
    if rng.random() < 0.3 * strength:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.6 + 1.2 * strength))
    if rng.random() < 0.15 * strength:
        shift = rng.normal(0, 3, 2)
        ghost = cv2.warpAffine(picture, np.array([[1, 0, shift[0]], [0, 1, shift[1]]]), (width, height), borderMode=cv2.BORDER_REPLICATE)
        share = rng.uniform(0.1, 0.4)
        picture = cv2.addWeighted(picture, 1 - share, ghost, share, 0)
    if rng.random() < 0.25 * strength:
        noise = rng.normal(0, rng.uniform(2, 12), (height, width, 3 if rng.random() < 0.5 else 1))
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.2 * strength:
        data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))])[1]
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return picture
