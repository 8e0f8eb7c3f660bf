"""Quantised checkpoints in every packaging that circulates, by writers that are not ours, with what they decode to.

    python tests/reference/make_formats.py        # crates/weights/tests/fixtures/formats; wants gguf 0.19

`NAME.expected.safetensors` holds the f32 values of NAME's weights, decoded by PyTorch (8 bits) or by
`gguf.quants.dequantize` (blocks), under the names that a reader should give them. For `blocks.gguf` it also holds the stored
bytes of each tensor (`NAME@bytes`). Everything is a function of fixed seeds.
"""

import json
from collections import OrderedDict
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import save_file

FOLDER = Path(__file__).resolve().parents[2] / "crates/weights/tests/fixtures/formats"
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
ROWS, COLUMNS = 6, 64
LAYERS = ["blocks.0.self_attn.q", "blocks.0.ffn.0"]


class Numbers:
    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape):
        return torch.randn(*shape, generator=self.generator) * 0.05


def save(name, tensors, expected, metadata=None):
    save_file({k: v.contiguous() for k, v in tensors.items()}, FOLDER / f"{name}.safetensors", metadata)
    save_file({k: v.float().contiguous() for k, v in expected.items()}, FOLDER / f"{name}.expected.safetensors")


def with_rest(numbers, tensors, expected):
    """What stays in 16 bits beside quantised layers."""
    for layer in LAYERS:
        tensors[f"{layer}.bias"] = numbers(ROWS).bfloat16()
    tensors["blocks.0.norm3.weight"] = 1 + numbers(ROWS).float()
    for name in [f"{layer}.bias" for layer in LAYERS] + ["blocks.0.norm3.weight"]:
        expected[name] = tensors[name]


def fp8_of(weight, dtype, axis=None):
    most = torch.finfo(dtype).max
    amax = weight.abs().amax() if axis is None else weight.abs().amax(dim=axis, keepdim=True)
    scale = amax / most
    return (weight / scale).clamp(-most, most).to(dtype), scale.float()


def int8_of(weight, axis=None):
    amax = weight.abs().amax() if axis is None else weight.abs().amax(dim=axis, keepdim=True)
    scale = (amax / 127).float()
    return (weight / scale).round().clamp(-128, 127).to(torch.int8), scale


def plain():
    """Casts of every rank, both types; all codes that are numbers."""
    numbers, tensors, expected = Numbers(1), {}, {}
    for dtype, tag in ((E4M3, "e4m3"), (E5M2, "e5m2")):
        codes = torch.arange(256, dtype=torch.uint8)
        finite = codes[codes.view(dtype).float().isfinite()]
        tensors[f"{tag}.codes.weight"] = finite[: len(finite) // 2 * 2].view(2, -1).view(dtype)
        tensors[f"{tag}.bias"] = numbers(7).to(dtype)
        tensors[f"{tag}.patch_embedding.weight"] = numbers(4, 3, 1, 2, 2).to(dtype)
    expected.update(tensors)
    save("fp8_plain", tensors, expected)


def scaled(name, seed, dtype, suffix, marker=None, inputs=None, axis=None, prefix=""):
    numbers, tensors, expected = Numbers(seed), {}, {}
    for layer in LAYERS:
        weight = numbers(ROWS, COLUMNS)
        code, scale = int8_of(weight, axis) if dtype == torch.int8 else fp8_of(weight, dtype, axis)
        tensors[f"{prefix}{layer}.weight"] = code
        tensors[f"{prefix}{layer}{suffix}"] = scale
        if inputs:
            tensors[f"{prefix}{layer}{inputs}"] = torch.tensor(0.5)
        expected[f"{prefix}{layer}.weight"] = code.float() * scale
    rest, rest_expected = {}, {}
    with_rest(numbers, rest, rest_expected)
    tensors.update({prefix + k: v for k, v in rest.items()})
    expected.update({prefix + k: v for k, v in rest_expected.items()})
    if marker is not None:
        tensors[f"{prefix}scaled_fp8"] = marker
    save(name, tensors, expected)


def described_tensor(description):
    return torch.tensor(list(json.dumps(description).encode()), dtype=torch.uint8)


def regular_hadamard(size):
    """comfy-kitchen's: Kronecker powers of a symmetric 4 x 4 seed, orthonormal."""
    seed = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=torch.float64)
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.kron(matrix, seed)
    assert len(matrix) == size
    return matrix / size**0.5


def comfy_quant():
    """Descriptions beside the tensors: both fp8 types, int8 a tensor, a row, and a rotated row."""
    numbers, tensors, expected = Numbers(6), {}, {}

    def add(layer, code, scale, description, value=None):
        tensors[f"{layer}.weight"], tensors[f"{layer}.weight_scale"] = code, scale
        tensors[f"{layer}.comfy_quant"] = described_tensor(description)
        expected[f"{layer}.weight"] = code.float() * scale if value is None else value

    weight = numbers(ROWS, COLUMNS)
    add("a", *fp8_of(weight, E4M3), {"format": "float8_e4m3fn", "full_precision_matrix_mult": True})
    tensors["a.input_scale"] = torch.tensor(0.25)
    add("b", *fp8_of(weight, E5M2), {"format": "float8_e5m2"})
    add("c", *int8_of(weight), {"format": "int8_tensorwise"})
    add("d", *int8_of(weight, 1), {"format": "int8_tensorwise"})
    wide = numbers(ROWS, 512)
    turn = regular_hadamard(256)
    turned = (wide.double().view(ROWS, 2, 256) @ turn.T).reshape(ROWS, 512).float()
    code, scale = int8_of(turned, 1)
    back = ((code.double() * scale.double()).view(ROWS, 2, 256) @ turn).reshape(ROWS, 512)
    add("e", code, scale, {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256}, back)
    save("comfy_quant", tensors, expected)


def comfy_metadata():
    """Descriptions in the header, without the prefix that the tensors have."""
    numbers, tensors, expected, layers = Numbers(7), {}, {}, {}
    for layer in LAYERS:
        code, scale = fp8_of(numbers(ROWS, COLUMNS), E4M3)
        name = f"model.diffusion_model.{layer}"
        tensors[f"{name}.weight"], tensors[f"{name}.weight_scale"] = code, scale
        expected[f"{name}.weight"] = code.float() * scale
        layers[layer] = {"format": "float8_e4m3fn"}
    text = json.dumps({"format_version": "1.0", "layers": layers})
    save("comfy_metadata", tensors, expected, {"_quantization_metadata": text, "made_by": "make_formats.py"})


def turbo_blocks(numbers):
    """TurboDiffusion: int8 in blocks of 128 x 128, sides that are no multiples of it."""
    tensors, expected = OrderedDict(), {}
    for layer, (rows, columns) in zip(LAYERS, ((130, 64), (3, 260))):
        weight = numbers(rows, columns)
        scale = torch.zeros(-(-rows // 128), -(-columns // 128))
        code = torch.zeros(rows, columns, dtype=torch.int8)
        for i in range(scale.shape[0]):
            for j in range(scale.shape[1]):
                place = (slice(128 * i, 128 * (i + 1)), slice(128 * j, 128 * (j + 1)))
                scale[i, j] = weight[place].abs().max() / 128
                code[place] = (weight[place] / scale[i, j]).round().clamp(-128, 127).to(torch.int8)
        tensors[f"{layer}.int8_weight"], tensors[f"{layer}.scale"] = code, scale
        tensors[f"{layer}.bias"] = numbers(rows)
        full = scale.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
        expected[f"{layer}.weight"] = code.float() * full
        expected[f"{layer}.bias"] = tensors[f"{layer}.bias"]
    # A parameter whose name ends as the scales do.
    tensors["norm.scale"] = 1 + numbers(5)
    expected["norm.scale"] = tensors["norm.scale"]
    return tensors, expected


def longcat():
    """LongCat-Video's shards: the index names both."""
    numbers, shards, expected = Numbers(9), [{}, {}], {}
    for layer, shard in zip(LAYERS, shards):
        code, scale = int8_of(numbers(ROWS, COLUMNS), 1)
        shard[f"{layer}.weight_int8"], shard[f"{layer}.weight_scale"] = code, scale.reshape(-1)
        shard[f"{layer}.bias"] = numbers(ROWS).bfloat16()
        expected[f"{layer}.weight"] = code.float() * scale
        expected[f"{layer}.bias"] = shard[f"{layer}.bias"]
    # A scale may lie in another shard than its weight.
    shards[0][f"{LAYERS[1]}.weight_scale"] = shards[1].pop(f"{LAYERS[1]}.weight_scale")
    folder = FOLDER / "longcat"
    folder.mkdir(exist_ok=True)
    weight_map = {}
    for i, shard in enumerate(shards):
        name = f"quantized_model-{i + 1:05}-of-00002.safetensors"
        save_file(shard, folder / name)
        weight_map.update({key: name for key in shard})
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "quantized_model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    save_file({k: v.float() for k, v in expected.items()}, FOLDER / "longcat.expected.safetensors")


# Where in a block lie its f16 scales and minima.
F16_PLACES = {
    Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q2_K: [80, 82], Type.Q3_K: [108],
    Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.IQ4_NL: [0], Type.IQ4_XS: [0],
}


def random_blocks(kind, rows, columns, generator):
    """Every bit of a block random, but its scales, which are small."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = generator.integers(0, 256, (rows, columns // block, size), dtype=np.uint8)
    for at in F16_PLACES[kind]:
        scale = generator.uniform(-0.01, 0.01, (rows, columns // block, 1)).astype(np.float16)
        raw[..., at : at + 2] = scale.view(np.uint8)
    return raw.reshape(rows, -1)


def blocks():
    """Every type on [4, 512], floats of every width, five dimensions, a noted shape."""
    generator = np.random.default_rng(10)
    writer = gguf.GGUFWriter(FOLDER / "blocks.gguf", "wan")
    writer.add_quantization_version(2)
    writer.add_file_type(7)
    writer.add_array("tokenizer.words", ["a", "bc", ""])
    writer.add_array("comfy.gguf.orig_shape.noted.weight", [2, 2, 2, 64])
    expected = {}

    def add(name, array, kind=None):
        writer.add_tensor(name, array, raw_dtype=kind)
        stored = kind or {np.float32: Type.F32, np.float16: Type.F16, np.float64: Type.F64}[array.dtype.type]
        if stored in F16_PLACES or stored == Type.BF16:
            expected[name] = torch.from_numpy(gguf.quants.dequantize(array, stored))
        else:
            expected[name] = torch.from_numpy(array.astype(np.float32))
        if stored in F16_PLACES:
            expected[f"{name}@bytes"] = torch.from_numpy(array)

    for kind in F16_PLACES:
        add(f"{kind.name.lower()}.weight", random_blocks(kind, 4, 512, generator), kind)
    add("noted.weight", random_blocks(Type.Q8_0, 4, 128, generator), Type.Q8_0)
    values = generator.standard_normal((3, 10)).astype(np.float32)
    add("f32.weight", values)
    add("f16.weight", values.astype(np.float16))
    add("f64.weight", values.astype(np.float64))
    add("bf16.weight", gguf.quants.quantize(values, Type.BF16), Type.BF16)
    add("patch_embedding.weight", generator.standard_normal((4, 3, 1, 2, 2)).astype(np.float32))
    # As stable-diffusion.cpp has it, and a modulation that lost its leading one.
    add("merged.weight", generator.standard_normal((12, 1, 2, 2)).astype(np.float16))
    add("blocks.0.modulation", generator.standard_normal((6, 8)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file({k: v.contiguous() for k, v in expected.items()}, FOLDER / "blocks.expected.safetensors")


def pickles():
    """torch.save in each of its forms; views, a tied tensor, a parameter, 8-bit floats, what training leaves behind."""
    numbers = Numbers(11)
    base = numbers(4, 6)
    state = OrderedDict()
    state["w"] = torch.nn.Parameter(base)
    state["view"] = base.detach().t()
    state["tail"] = base.detach()[2:]
    state["tied"] = state["w"]
    state["half"] = numbers(3).half()
    state["bf16"] = numbers(2, 2).bfloat16()
    state["double"] = numbers(2).double()
    state["steps"] = torch.tensor(7)
    state["mask"] = torch.tensor([True, False])
    state["empty"] = torch.zeros(0, 3)
    state["scalar"] = torch.tensor(1.5)
    whole = {"epoch": 3, "loss": 0.25, "state_dict": state, "optimizer": {"state": {0: {"m": base.detach()}}}}
    for protocol in (2, 3, 4, 5):
        torch.save(whole, FOLDER / f"protocol{protocol}.pth", pickle_protocol=protocol)
    torch.save({"model": {"module": dict(state)}}, FOLDER / "legacy.pth", _use_new_zipfile_serialization=False)
    names = ["w", "view", "tail", "tied", "half", "bf16", "double", "empty", "scalar"]
    save_file({n: state[n].detach().float().contiguous().clone() for n in names}, FOLDER / "pickles.expected.safetensors")
    fp8 = {"a.weight": numbers(2, 4).to(E4M3), "b.weight": numbers(2, 4).to(E5M2)}
    torch.save(fp8, FOLDER / "fp8.pth")
    save_file({k: v.float() for k, v in fp8.items()}, FOLDER / "fp8.expected.safetensors")
    tensors, expected = turbo_blocks(Numbers(8))
    torch.save(tensors, FOLDER / "turbo.pth")
    save("turbo", tensors, expected)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    plain()
    scaled("comfy_scaled", 2, E4M3, ".scale_weight", torch.zeros(2, dtype=E4M3), ".scale_input")
    scaled("comfy_scaled_e5m2", 3, E5M2, ".scale_weight", torch.zeros(0, dtype=E5M2), prefix="model.diffusion_model.")
    scaled("kijai", 4, E4M3, ".weight_scale", torch.zeros(0, dtype=torch.float32))
    scaled("lightx2v_fp8", 5, E4M3, ".weight_scale", axis=1)
    scaled("lightx2v_int8", 12, torch.int8, ".weight_scale", axis=1)
    comfy_quant()
    comfy_metadata()
    longcat()
    blocks()
    pickles()


if __name__ == "__main__":
    main()
