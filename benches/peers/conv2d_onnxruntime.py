"""Times of onnxruntime for single convolutions with SiLU, shapes as in kernels/benches/conv2d_shapes.csv.

    python benches/peers/conv2d_onnxruntime.py [part of a name]

Prints the name, the threads, the least and the median time in ms, and GFLOP/s of the least.
"""

import csv
import pathlib
import statistics
import sys
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

TABLE = pathlib.Path(__file__).parents[2] / "kernels/benches/conv2d_shapes.csv"
SECONDS = 0.6


def model(inputs, outputs, size, stride, groups):
    rng = np.random.default_rng(0)
    inner = inputs // groups * size * size
    weight = rng.standard_normal((outputs, inputs // groups, size, size), np.float32) / np.float32(inner**0.5)
    bias = rng.standard_normal(outputs, np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[size // 2] * 4, strides=[stride] * 2, group=groups),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Mul", ["c", "s"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "conv2d",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inputs, "h", "w_"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs, "p", "q"])],
        [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(bias, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def main():
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    for row in csv.DictReader(TABLE.open()):
        name = row.pop("name")
        if wanted not in name:
            continue
        s = {k: int(v) for k, v in row.items()}
        data = model(s["in"], s["out"], s["size"], s["stride"], s["groups"])
        x = np.random.default_rng(1).standard_normal((s["batch"], s["in"], s["height"], s["width"]), np.float32)
        positions = s["batch"] * -(-s["height"] // s["stride"]) * -(-s["width"] // s["stride"])
        flop = 2 * positions * s["in"] // s["groups"] * s["size"] ** 2 * s["out"]
        for threads in (1, 2):
            options = ort.SessionOptions()
            options.intra_op_num_threads = threads
            session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            times = []
            end = time.perf_counter() + SECONDS
            while time.perf_counter() < end or len(times) < 5:
                start = time.perf_counter()
                session.run(None, {"x": x})
                times.append(time.perf_counter() - start)
            least, median = min(times) * 1e3, statistics.median(times) * 1e3
            print(f"{name:22} {threads}  {least:8.3f} {median:8.3f} ms  {flop / least / 1e6:7.1f} GFLOP/s", flush=True)


if __name__ == "__main__":
    main()
