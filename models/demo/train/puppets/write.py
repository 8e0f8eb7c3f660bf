"""One pair as files: python -m puppets.write OUT_DIR --seed S [--split held-out] [--frames 33]"""

import argparse
import shutil
import subprocess
from pathlib import Path

import cv2

from .keypoints import write_json
from .pairs import SPLITS, sample_pair


def write_pair(pair, out):
    """reference.png, driving.mp4 (or driving/ without ffmpeg), truth/, mask/, driving.json, pose.json, prompt.txt."""
    out.mkdir(parents=True, exist_ok=True)
    picture, _ = pair.reference.frame(0)
    cv2.imwrite(str(out / "reference.png"), picture[..., ::-1])
    frames, _ = pair.driving.video()
    if shutil.which("ffmpeg"):
        _mp4(frames, pair.fps, out / "driving.mp4")
    else:
        _folder(frames, out / "driving")
    truth, masks = pair.truth.video()
    _folder(truth, out / "truth")
    _folder(masks, out / "mask")
    reference = pair.reference.keypoints()[0]
    size = pair.reference.size
    write_json(out / "driving.json", pair.driving.keypoints(), pair.driving.size, pair.fps, reference, size)
    write_json(out / "pose.json", pair.pose.keypoints(), size, pair.fps, reference, size)
    (out / "prompt.txt").write_text(pair.prompt + "\n", encoding="utf-8")


def _folder(frames, folder):
    folder.mkdir(exist_ok=True)
    for t, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{t:04}.png"), frame[..., ::-1] if frame.ndim == 3 else frame)


def _mp4(frames, fps, path):
    height, width = frames.shape[1:3]
    command = [
        "ffmpeg",
        "-y",
        "-loglevel",
        "error",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{width}x{height}",
        "-r",
        str(fps),
        "-i",
        "-",
    ]
    command += ["-c:v", "libx264", "-crf", "14", "-pix_fmt", "yuv420p", "-threads", "1", str(path)]
    subprocess.run(command, input=frames.tobytes(), check=True)


def main():
    parser = argparse.ArgumentParser(description="Writes one pair: reference, driving clip, truth, masks, keypoints and prompt.")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--split", choices=SPLITS, default="held-out")
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--size", type=int, nargs=2, default=(208, 288), metavar=("WIDTH", "HEIGHT"))
    options = parser.parse_args()
    write_pair(sample_pair(options.seed, options.split, tuple(options.size), options.frames), options.out)


if __name__ == "__main__":
    main()
