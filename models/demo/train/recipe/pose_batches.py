"""Batches for the two pose networks, augmented."""

import cv2
import numpy as np
import torch

from . import pose_augment as augment
from .pose_data import shrunk


def near(frames, i, crop):
    """Frame `i` around its figure, not much larger than crops of it need: (picture, mask, keypoints, box), or None without figure."""

    def make():
        picture, mask, keypoints = frames.picture(i)
        box = augment.box_of(mask)
        if box is None:
            return None
        centre, size = augment.window(box, crop)
        sides = np.array(mask.shape[::-1])
        low = np.clip(centre - 0.85 * size, 0, sides).astype(int)
        high = np.clip(np.ceil(centre + 0.85 * size), 0, sides).astype(int)
        picture, mask = (np.ascontiguousarray(p[low[1] : high[1], low[0] : high[0]]) for p in (picture, mask))
        scale = min(1.0, 1.4 * crop[0] / size[1])
        if scale < 1:
            to = np.maximum(np.rint((high - low) * scale), 8).astype(int)
            picture, mask = (cv2.resize(p, to.tolist(), interpolation=cv2.INTER_AREA) for p in (picture, mask))
        factor = np.array(mask.shape[::-1]) / (high - low)
        points = np.concatenate([(keypoints[:, :2] - low) * factor, keypoints[:, 2:]], 1)
        return picture, mask, points, (box - np.tile(low, 2)) * np.tile(factor, 2)

    return frames.kept(("near", i), make)


def small(frames, i, most):
    """Frame `i` with no side above `most` pixels: (picture, mask, box or None)."""

    def make():
        picture, mask, _ = frames.picture(i)
        picture, mask = shrunk(picture, most), shrunk(mask, most)
        return picture, mask, augment.box_of(mask)

    return frames.kept(("small", i), make)


def crops(rng, frames, count, crop, wear):
    """Normalised crops [B, 3, H, W] as the engine makes them (BGR), keypoints [B, 133, 3] in their pixels."""
    pictures, points = [], []
    while len(pictures) < count:
        found = near(frames, int(rng.integers(len(frames))), crop)
        if found is None:
            continue
        picture, mask, keypoints, box = found
        if rng.random() < 0.3:
            picture = augment.behind(rng, picture, mask, frames.backdrop(int(rng.integers(len(frames)))))
        if rng.random() < 0.06:
            height, width = picture.shape[:2]
            box = np.array([0, 0, width, height], float)
        size = np.repeat(box[2:] - box[:2], 2).reshape(2, 2).T.ravel()
        box = box + rng.normal(0, 0.04, 4) * size
        grow = np.clip(rng.normal(1, 0.1), 0.8, 1.5)
        box = box + (grow - 1) / 2 * np.array([-1, -1, 1, 1]) * size
        angle = rng.normal(0, 0.12) if rng.random() < 0.4 else 0.0
        linear, origin = augment.crop_matrix(box, crop, angle)
        view = augment.cut(picture, linear, origin, crop, cubic=rng.random() < 0.8)
        view = augment.wear(rng, augment.colours(rng, view), wear)
        xy = (keypoints[:, :2] - origin) @ np.linalg.inv(linear).T
        place = np.concatenate([xy, keypoints[:, 2:]], 1)
        if rng.random() < 0.5:
            view, place = view[:, ::-1], place[augment.MIRRORED]
            place[:, 0] = crop[1] - 1 - place[:, 0]
        pictures.append(view[..., ::-1])
        points.append(place)
    pictures = (np.stack(pictures).astype(np.float32) - augment.MEAN) / augment.DEVIATION
    return torch.from_numpy(pictures).permute(0, 3, 1, 2), torch.from_numpy(np.stack(points)).float()


def squares(rng, frames, count, side, wear):
    """Letterboxed pictures [B, 3, S, S] in 0..255, corners [B, 4] of the one figure in each, all 0 where nobody is."""
    pictures, corners = [], []
    while len(pictures) < count:
        picture, mask, box = small(frames, int(rng.integers(len(frames))), 2 * side)
        if box is None:
            continue
        kind = rng.random()
        if kind < 0.07:
            picture, mask = frames.backdrop(int(rng.integers(len(frames)))), None
        elif kind < 0.6:
            picture, mask = _placed(rng, picture, mask, box, frames.backdrop(int(rng.integers(len(frames)))))
        if rng.random() < 0.5:
            picture, mask = picture[:, ::-1], None if mask is None else mask[:, ::-1]
        height, width = picture.shape[:2]
        fit = min(side / width, side / height)
        inner = int(width * fit + 0.5), int(height * fit + 0.5)
        how = cv2.INTER_LINEAR if rng.random() < 0.6 else cv2.INTER_CUBIC
        view = cv2.resize(np.ascontiguousarray(picture), inner, interpolation=how)
        view = augment.wear(rng, augment.colours(rng, view), wear)
        if rng.random() < 0.2:
            view = view[..., ::-1]
        square = np.full((side, side, 3), augment.GREY, np.uint8)
        square[: inner[1], : inner[0]] = view
        box = None if mask is None else augment.box_of(mask)
        if mask is not None and box is None:
            continue
        pictures.append(square)
        corners.append(np.zeros(4) if box is None else box * np.tile([inner[0] / width, inner[1] / height], 2))
    pictures = torch.from_numpy(np.stack(pictures)).float().permute(0, 3, 1, 2)
    return pictures, torch.from_numpy(np.stack(corners)).float()


def _placed(rng, picture, mask, box, backdrop):
    """The figure at another place and size in a picture of another shape."""
    height = int(rng.uniform(120, 260))
    width = int(height * np.exp(rng.uniform(-0.65, 0.65)))
    scale = height * np.exp(rng.uniform(np.log(0.25), np.log(1.1))) / (box[3] - box[1])
    scale = min(scale, 1.2 * width / (box[2] - box[0]))
    half = (box[2:] - box[:2]) / 2 * scale
    room = np.maximum(np.array([width, height]) - half * 1.4, half * 0.6)
    centre = rng.uniform(np.minimum(half * 0.9, room), room)
    offset = centre - (box[:2] + box[2:]) / 2 * scale
    matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    how = dict(flags=cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR)
    if scale < 0.7:
        picture, mask = (cv2.resize(p, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for p in (picture, mask))
        matrix[:, :2], how = np.eye(2), dict(flags=cv2.INTER_LINEAR)
    figure = cv2.warpAffine(picture, matrix, (width, height), **how)
    cover = cv2.warpAffine(mask, matrix, (width, height), **how)
    return augment.behind(rng, figure, cover, backdrop), cover
