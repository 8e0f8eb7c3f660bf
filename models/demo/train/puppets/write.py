"""Pairs as files: one, python -m puppets.write OUT_DIR --seed S; or a set for `steadydance eval`,
python -m puppets.write OUT_DIR --count 32 --first 0 --size 160 224"""

import argparse
import json
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np

from . import __version__
from .keypoints import FACE, write_json
from .pairs import SPLITS, sample_pair

SETTLE = 4
# x264's settings for a set. 4:2:0 would cost the small, bright figures 10 dB and more, so truths are 4:4:4; without
# mbtree and adaptive quantisation the bits go to what moves. The mask has two values and is lossless.
TRUTH = ("-crf", "16", "-pix_fmt", "yuv444p", "-preset", "veryslow", "-tune", "psnr", "-x264-params", "mbtree=0:aq-mode=0")
DRIVING = ("-crf", "23", "-pix_fmt", "yuv420p", "-preset", "veryslow")
MASK = ("-qp", "0", "-pix_fmt", "gray", "-preset", "veryslow")


def write_pair(pair, out):
    """reference.png, driving.mp4 (or driving/ without ffmpeg), truth/, mask/, driving.json, pose.json, prompt.txt."""
    out.mkdir(parents=True, exist_ok=True)
    frames, _ = pair.driving.video()
    if shutil.which("ffmpeg"):
        _mp4(frames, pair.fps, out / "driving.mp4", ("-crf", "14", "-pix_fmt", "yuv420p"))
    else:
        _folder(frames, out / "driving")
    truth, masks = pair.truth.video()
    _folder(truth, out / "truth")
    _folder(masks, out / "mask")
    _small_files(pair, out)


def write_set(out, count, first, split, size, frames):
    """`count` pairs of a split, from seed `first` on, as videos, and set.json. It is written last: without it a set is none."""
    out.mkdir(parents=True, exist_ok=True)
    pairs, whole, figure = [], [], []
    for seed in range(first, first + count):
        pair = sample_pair(seed, split, size, frames, settle=SETTLE)
        folder = out / f"{seed:04}"
        folder.mkdir(exist_ok=True)
        _small_files(pair, folder, compact=True)
        _mp4(pair.driving.video()[0], pair.fps, folder / "driving.mp4", DRIVING)
        truth, masks = pair.truth.video()
        masks = np.where(masks >= 128, 255, 0).astype(np.uint8)
        _mp4(truth, pair.fps, folder / "truth.mp4", TRUTH)
        _mp4(masks, pair.fps, folder / "mask.mp4", MASK)
        stored = _read_back(folder / "truth.mp4", truth.shape)
        whole.append(_psnr(truth, stored))
        figure.append(_psnr(truth[masks > 0], stored[masks > 0]))
        if not np.array_equal(_read_back(folder / "mask.mp4", masks.shape) >= 128, masks >= 128):
            raise RuntimeError(f"{folder}: the stored mask is not the drawn one")
        pairs.append({"name": folder.name, "seed": seed})
        print(f"{folder.name}: truth {whole[-1]:.1f} dB, its figure {figure[-1]:.1f} dB", flush=True)
    spread = lambda values: {"min": round(min(values), 2), "mean": round(float(np.mean(values)), 2)}
    head = {
        "format": "steadydance-eval-set",
        "version": 1,
        "generator": f"puppets {__version__}",
        "split": split,
        "width": size[0],
        "height": size[1],
        "frames": frames,
        "fps": pair.fps,
        "settle": SETTLE,
        "truth_psnr_db": spread(whole),
        "truth_figure_psnr_db": spread(figure),
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    lines.append('"pairs": [\n' + ",\n".join(json.dumps(row) for row in pairs) + "\n]")
    (out / "set.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _small_files(pair, out, compact=False):
    """Reference, keypoints and prompt. Compact keypoints are tenths of pixels, without the face, which nobody draws."""
    picture, _ = pair.reference.frame(0)
    cv2.imwrite(str(out / "reference.png"), picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    reference = _points(pair.reference, compact)[0]
    size, digits = pair.reference.size, 1 if compact else 3
    write_json(out / "driving.json", _points(pair.driving, compact), pair.driving.size, pair.fps, reference, size, digits)
    write_json(out / "pose.json", _points(pair.pose, compact), size, pair.fps, reference, size, digits)
    (out / "prompt.txt").write_text(pair.prompt + "\n", encoding="utf-8")


def _points(actor, compact):
    points = actor.keypoints()
    if compact:
        points[:, FACE] = 0
    return points


def _folder(frames, folder):
    folder.mkdir(exist_ok=True)
    for t, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{t:04}.png"), frame[..., ::-1] if frame.ndim == 3 else frame)


def _mp4(frames, fps, path, settings):
    height, width = frames.shape[1:3]
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24" if frames.ndim == 4 else "gray", "-s", f"{width}x{height}", "-r", str(fps))
    encode = ("-c:v", "libx264", *settings, "-threads", "1", str(path))
    subprocess.run(["ffmpeg", "-y", "-loglevel", "error", *raw, "-i", "-", *encode], input=frames.tobytes(), check=True)


def _read_back(path, shape):
    out = ("-f", "rawvideo", "-pix_fmt", "rgb24" if len(shape) == 4 else "gray", "-")
    command = ["ffmpeg", "-loglevel", "error", "-i", str(path), *out]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8).reshape(shape)


def _psnr(a, b):
    return float(10 * np.log10(255**2 / max(1e-12, np.mean((a.astype(np.float64) - b) ** 2))))


def main():
    parser = argparse.ArgumentParser(description="Writes pairs: reference, driving clip, truth, masks, keypoints and prompt.")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="one pair, its truth and masks as pictures")
    what.add_argument("--count", type=int, help="a set of so many pairs for `steadydance eval`; needs ffmpeg")
    parser.add_argument("--first", type=int, default=0, help="first seed of a set")
    parser.add_argument("--split", choices=SPLITS, default="held-out")
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--size", type=int, nargs=2, default=(208, 288), metavar=("WIDTH", "HEIGHT"))
    options = parser.parse_args()
    size = tuple(options.size)
    if options.count is not None:
        if options.count < 1:
            parser.error("--count: a set has at least one pair")
        write_set(options.out, options.count, options.first, options.split, size, options.frames)
    else:
        write_pair(sample_pair(options.seed, options.split, size, options.frames, settle=SETTLE), options.out)


if __name__ == "__main__":
    main()
