"""This engine beside onnxruntime on the full-size networks of `tests/reference/make_pose_nets.py --full DIR`, in turns.

    cargo test --release -p steadydance-pose --test nets_full --no-run
    python benches/peers/pose_onnxruntime.py DIR PATH_OF_THE_TEST_PROGRAM [ROUNDS]

A round runs both, one after the other, on the same ONNX files, with one thread and with two; figures are medians over the
rounds of each round's median. DWPose takes a crop and its mirror image together, as the flip test does.
"""

import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

import numpy as np
import onnxruntime as ort
from safetensors.numpy import load_file

NETWORKS = (("yolox_l", 1), ("dw-ll_ucoco_384", 2))


def ours(folder, program, threads):
    """Seconds of a forward pass by network."""
    env = dict(os.environ, STEADYDANCE_POSE_NETS=str(folder), RAYON_NUM_THREADS=str(threads))
    command = [program, "--ignored", "--nocapture", "--test-threads=1"]
    text = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    found = re.findall(r"(\S+)\.onnx: .*?, ([\d.]+) s a pass", text)
    return {name: float(seconds) for name, seconds in found}


def sessions(folder, threads):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    for name, batch in NETWORKS:
        session = ort.InferenceSession(str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
        picture = load_file(folder / f"{name}.safetensors")["input"][:1].transpose(0, 3, 1, 2)
        yield name, session, {session.get_inputs()[0].name: np.ascontiguousarray(picture.repeat(batch, 0))}


def theirs(folder, threads):
    result = {}
    for name, session, feed in sessions(folder, threads):
        session.run(None, feed)
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            session.run(None, feed)
            seconds.append(time.perf_counter() - started)
        result[name] = statistics.median(seconds)
    return result


def main():
    folder, program = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    print("onnxruntime", ort.__version__)
    for threads in (1, 2):
        runs = [(ours(folder, program, threads), theirs(folder, threads)) for _ in range(rounds)]
        for name, batch in NETWORKS:
            a, b = (statistics.median(run[side][name] for run in runs) for side in (0, 1))
            print(f"{name}, batch {batch}, {threads} thread(s): ours {a:.3f} s, onnxruntime {b:.3f} s, ours is {b / a:.2f} times as fast")


if __name__ == "__main__":
    main()
