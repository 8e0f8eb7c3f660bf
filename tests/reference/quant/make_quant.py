"""Quantised matrices and what gguf-py and PyTorch make of them.

    python tests/reference/quant/make_quant.py [kernels/tests/fixtures/quant.safetensors]

For every encoding E: `E.bytes` [3, row bytes] and `E.values` [3, 512] f32, decoded by gguf.quants.dequantize or by torch.
`plain` [6, 512] f32 are values to be encoded; `E.encoded` is what gguf.quants.quantize makes of them, and for 8-bit floats
torch's cast of `plain` and, as `E.encoded_rows` with `E.scales` [6], of its rows divided by max|x| / largest.
"""

import sys

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import save_file

ROWS, COLUMNS = 3, 512
# Where the f16 numbers of a block are: any other bytes may be anything.
HALVES = {
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
}


def main(path):
    rng = np.random.default_rng(20261121)
    out = {}
    for name, halves in HALVES.items():
        kind = Type[name]
        numbers, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (ROWS, COLUMNS // numbers, size), dtype=np.uint8)
        for at in halves:
            scale = (rng.standard_normal(blocks.shape[:2]) * 10.0 ** rng.uniform(-7, 1, blocks.shape[:2])).astype("<f2")
            blocks[:, :, at : at + 2] = scale[..., None].view(np.uint8)
        rows = blocks.reshape(ROWS, -1)
        out[f"{name}.bytes"] = torch.from_numpy(rows)
        out[f"{name}.values"] = torch.from_numpy(gguf.quants.dequantize(rows, kind).astype(np.float32))
    plain = rng.standard_normal((6, COLUMNS)).astype(np.float32) * 0.02
    plain[1] *= 10.0 ** rng.uniform(-3, 3, COLUMNS)
    plain[2, :64] = 0
    plain[2, 70] = -3.0
    plain[3, 32:64] = 0.25
    plain[4] = np.round(plain[4] * 100) / 64
    plain[5] = np.abs(plain[5]) + 1
    plain = plain.astype(np.float32)
    out["plain"] = torch.from_numpy(plain)
    for name in ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]:
        out[f"{name}.encoded"] = torch.from_numpy(gguf.quants.quantize(plain, Type[name]))
    for name, dtype in {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}.items():
        every = torch.arange(ROWS * COLUMNS, dtype=torch.int64).to(torch.uint8).reshape(ROWS, COLUMNS)
        out[f"{name}.bytes"] = every
        out[f"{name}.values"] = every.view(dtype).float()
        out[f"{name}.encoded"] = out["plain"].to(dtype).view(torch.uint8)
        scales = out["plain"].abs().amax(1) / torch.finfo(dtype).max
        out[f"{name}.scales"] = scales
        out[f"{name}.encoded_rows"] = (out["plain"] / scales[:, None]).to(dtype).view(torch.uint8)
    save_file(out, path)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "kernels/tests/fixtures/quant.safetensors")
