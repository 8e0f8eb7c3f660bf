"""Writes the averaged weights of a run's last checkpoint: python -m recipe.export_pose pose estimator RUN ../pose/estimator.safetensors"""

import argparse
from pathlib import Path

import torch

from . import pose_nets


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pair", choices=pose_nets.PAIRS)
    parser.add_argument("network", choices=("detector", "estimator"))
    parser.add_argument("run", type=Path)
    parser.add_argument("output", type=Path)
    a = parser.parse_args()
    sizes = pose_nets.PAIRS[a.pair][a.network]
    net = getattr(pose_nets, a.network)(**sizes)
    state = torch.load(a.run / "state.pt")["average"]
    last = max(int(name.split(".", 1)[0]) for name in state)
    net.load_state_dict({name.split(".", 1)[1]: value for name, value in state.items() if name.startswith(f"{last}.")})
    pose_nets.save(net, a.output, sizes.get("side"))


if __name__ == "__main__":
    main()
