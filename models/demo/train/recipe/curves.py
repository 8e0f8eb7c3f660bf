"""Draws the trainings' curves: python -m recipe.curves OUT.png --vae vae.csv --dit dit.csv --lora lora.csv (needs matplotlib)"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

# The columns of each training's CSV that are drawn, with what they are.
CURVES = {
    "vae": ((0, 5, "PSNR of the batches, dB"),),
    "dit": ((0, 2, "weighted error of the velocity"), (0, 3, "the same, figures only")),
    "lora": ((0, 2, "weighted error of the clean clip"), (0, 3, "the same, figures only")),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    for name in CURVES:
        parser.add_argument(f"--{name}", type=Path, required=True)
    a = parser.parse_args()
    figure, axes = plt.subplots(1, len(CURVES), figsize=(12, 3.2), layout="constrained")
    for (name, curves), axis in zip(CURVES.items(), axes):
        rows = np.loadtxt(getattr(a, name), delimiter=",", ndmin=2)
        for x, y, label in curves:
            axis.plot(rows[:, x], rows[:, y], label=label, linewidth=1)
        axis.set(title=name, xlabel="step")
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.savefig(a.out, dpi=80)


if __name__ == "__main__":
    main()
