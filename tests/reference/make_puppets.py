"""Writes tests/fixtures/puppets: three frames of held-out puppets (models/demo/train) with the keypoints that they were drawn from.

    python tests/reference/make_puppets.py
"""

import pathlib
import sys

import cv2

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "models/demo/train"))
from puppets.keypoints import write_json  # noqa: E402
from puppets.pairs import sample_pair  # noqa: E402

SIZE = (160, 224)
# Name: seed and frame, at about a frame a second.
FRAMES = {"front": (305, 5), "arms": (311, 4), "behind": (306, 5)}


def main():
    folder = ROOT / "tests/fixtures/puppets"
    folder.mkdir(exist_ok=True)
    for name, (seed, t) in FRAMES.items():
        actor = sample_pair(seed, "held-out", size=SIZE, frames=8, fps=1.1, driving_size=SIZE).driving
        cv2.imwrite(str(folder / f"{name}.png"), actor.frame(t)[0][..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
        write_json(folder / f"{name}.json", actor.keypoints()[t : t + 1], SIZE, 1.0)


if __name__ == "__main__":
    main()
