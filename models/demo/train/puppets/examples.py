"""The pictures and dances in examples/media: python -m puppets.examples ../../../examples/media (needs ffmpeg)

Held-out puppets that no training and no pair of models/demo/eval shows. `reference*.png` and `dance*.mp4` go together in any way;
`dance*.json` has the keypoints of the dance and of the reference of the same number.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import cv2
import numpy as np

from .keypoints import write_json
from .pairs import sample_pair

# Whose puppet, and whose dance.
EXAMPLES = {"": (44, 41), "-2": (42, 40), "-3": (49, 48)}
REFERENCE, DRIVING = (320, 448), (320, 480)
FRAMES, RATE = 97, 44_100
# Semitones above C4, one every half beat.
TUNE = (0, 4, 7, 4, 9, 7, 4, 7, 5, 9, 12, 9, 7, 4, 5, 2, 4, 7, 11, 7, 12, 7, 4, 0)


def music(beat, seconds):
    """Mono samples of 16 bits: a drum on every beat and a tune."""
    time = np.arange(int(RATE * seconds)) / RATE
    t, u = time % beat, time % (beat / 2)
    drum = np.sin(2 * np.pi * (90 * t - 60 * t * t)) * np.exp(-18 * t)
    pitch = 261.63 * 2 ** (np.take(TUNE, (time / (beat / 2)).astype(int), mode="wrap") / 12)
    pluck = (1 - np.exp(-400 * u)) * np.exp(-9 * u)
    tone = np.sin(2 * np.pi * pitch * u) + 0.35 * np.sin(4 * np.pi * pitch * u)
    return np.rint(32767 * (0.45 * drum + 0.22 * pluck * tone)).astype("<i2")


def write_video(path, frames, fps, sound):
    with tempfile.NamedTemporaryFile(suffix=".pcm") as file:
        file.write(sound.tobytes())
        file.flush()
        video = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{frames.shape[2]}x{frames.shape[1]}", "-r", str(fps), "-i", "-")
        audio = ("-f", "s16le", "-ar", str(RATE), "-ac", "1", "-i", file.name)
        encode = ("-c:v", "libx264", "-crf", "22", "-pix_fmt", "yuv420p", "-preset", "veryslow", "-threads", "1", "-c:a", "aac", "-b:a", "48k", "-shortest")
        subprocess.run(["ffmpeg", "-y", "-loglevel", "error", *video, *audio, *encode, str(path)], input=frames.tobytes(), check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    for number, seeds in EXAMPLES.items():
        reference, driving = (sample_pair(seed, "held-out", REFERENCE, FRAMES, driving_size=DRIVING) for seed in seeds)
        picture, _ = reference.reference.frame(0)
        cv2.imwrite(str(a.out / f"reference{number}.png"), picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
        points, dance = reference.reference.keypoints()[0], driving.driving
        write_json(a.out / f"dance{number}.json", dance.keypoints(), DRIVING, driving.fps, points, REFERENCE, 1)
        write_video(a.out / f"dance{number}.mp4", dance.video()[0], driving.fps, music(driving.beat, FRAMES / driving.fps))
        print(f"reference{number}.png: {reference.prompt}")


if __name__ == "__main__":
    main()
