"""One transformer in every form that circulates, by writers that are not ours, and what each decodes to.

Each writer takes the tensors of the demo's transformer and a path, writes the model there, and gives the f32 values that a reader should
find under the original names: decoded by PyTorch (8 bits) or by `gguf.quants.dequantize` (blocks).
"""

import json

import gguf
import torch
from safetensors.torch import save_file

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
COMFY = "model.diffusion_model."
SHARDS = 3

# diffusers' `WanTransformer3DModel`: names of layers outside of the blocks, and of those in them.
OUTSIDE = {
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "head.head": "proj_out",
    "head": "scale_shift_table",
}
ATTENTION = {
    "q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k",
    "k_img": "add_k_proj", "v_img": "add_v_proj", "norm_k_img": "norm_added_k",
}  # fmt: skip
INSIDE = {"norm3": "norm2", "ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2"}
for ours, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2")):
    INSIDE |= {f"{ours}.{a}": f"{theirs}.{b}" for a, b in ATTENTION.items()}


def is_layer(name, tensor):
    return name.startswith("blocks.") and tensor.dim() == 2 and name.endswith(".weight")


def floats(tensors):
    return {name: tensor.float() for name, tensor in tensors.items()}


def regular_hadamard(size):
    """comfy-kitchen's: Kronecker powers of a symmetric 4 x 4 seed, orthonormal."""
    seed = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=torch.float64)
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.kron(matrix, seed)
    return matrix / size**0.5


def coded(weight, dtype, rows=False):
    """Codes and scale: amax over the type's largest number, of the matrix or of each row."""
    most = 127 if dtype == torch.int8 else torch.finfo(dtype).max
    amax = weight.abs().amax(dim=1, keepdim=True) if rows else weight.abs().amax()
    scale = (amax / most).float()
    code = (weight / scale).clamp(-most, most)
    return (code.round() if dtype == torch.int8 else code).to(dtype), scale


def cast(dtype):
    def write(tensors, path):
        stored = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        save_file(stored, path)
        return floats(stored)

    return write


def plain_fp8(dtype):
    def write(tensors, path):
        stored = {name: tensor.to(dtype) if is_layer(name, tensor) else tensor for name, tensor in tensors.items()}
        save_file(stored, path)
        return floats(stored)

    return write


def scaled(dtype, scale_name, rows=False, marker=None, described=None, header=False, prefix="", inputs=None):
    """`weight` in 8 bits with its scale beside it; `described` is what ComfyUI's newer files say of a layer."""

    def write(tensors, path):
        stored, expected, layers = {}, floats(tensors), {}
        for name, tensor in tensors.items():
            if not is_layer(name, tensor):
                stored[prefix + name] = tensor
                continue
            module = name.removesuffix(".weight")
            code, scale = coded(tensor.float(), dtype, rows)
            stored[prefix + name], stored[f"{prefix}{module}.{scale_name}"] = code, scale
            expected[name] = code.float() * scale
            if inputs:
                stored[f"{prefix}{module}.{inputs}"] = torch.tensor(1.0)
            if described and header:
                layers[module] = described
            elif described:
                stored[f"{prefix}{module}.comfy_quant"] = torch.tensor(list(json.dumps(described).encode()), dtype=torch.uint8)
        if marker is not None:
            stored[f"{prefix}scaled_fp8"] = marker
        text = json.dumps({"format_version": "1.0", "layers": layers})
        save_file(stored, path, {"_quantization_metadata": text} if header else None)
        return expected

    return write


def rotated(tensors, path):
    """ComfyUI's int8 after a Hadamard rotation of groups of 256 columns."""
    stored, expected, turn = dict(tensors), floats(tensors), regular_hadamard(256)
    for name, tensor in tensors.items():
        if is_layer(name, tensor):
            module, shape = name.removesuffix(".weight"), tensor.shape
            grouped = tensor.double().view(shape[0], -1, 256)
            code, scale = coded((grouped @ turn.T).reshape(shape).float(), torch.int8, True)
            stored[name], stored[f"{module}.weight_scale"] = code, scale
            said = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256}
            stored[f"{module}.comfy_quant"] = torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)
            back = (code.double() * scale.double()).view(shape[0], -1, 256) @ turn
            expected[name] = back.reshape(shape).float()
    save_file(stored, path)
    return expected


def turbo(tensors, path):
    """TurboDiffusion: int8 in blocks of 128 x 128, `torch.save`d."""
    stored, expected = {}, floats(tensors)
    for name, tensor in tensors.items():
        if not is_layer(name, tensor):
            stored[name] = tensor
            continue
        module, weight, (rows, columns) = name.removesuffix(".weight"), tensor.float(), tensor.shape
        grid = (-(-rows // 128), -(-columns // 128))
        padded = torch.zeros(grid[0] * 128, grid[1] * 128)
        padded[:rows, :columns] = weight
        scale = padded.view(grid[0], 128, grid[1], 128).abs().amax((1, 3)) / 128
        full = scale.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
        code = (weight / full).round().clamp(-128, 127).to(torch.int8)
        stored[f"{module}.int8_weight"], stored[f"{module}.scale"] = code, scale
        expected[name] = code.float() * full
    torch.save(stored, path)
    return expected


def save_shards(stored, index):
    """Names go round over the shards, so that a scale and its weight are apart."""
    index.parent.mkdir(parents=True, exist_ok=True)
    stem, names, weight_map = index.name.removesuffix(".safetensors.index.json"), sorted(stored), {}
    for i in range(SHARDS):
        file = f"{stem}-{i + 1:05}-of-{SHARDS:05}.safetensors"
        mine = {name: stored[name] for name in names[i::SHARDS]}
        save_file(mine, index.with_name(file))
        weight_map |= {name: file for name in mine}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def longcat(tensors, index):
    """LongCat-Video: int8 with a scale a row, in shards with an index."""
    stored, expected = {}, floats(tensors)
    for name, tensor in tensors.items():
        if is_layer(name, tensor):
            module = name.removesuffix(".weight")
            code, scale = coded(tensor.float(), torch.int8, True)
            stored[f"{module}.weight_int8"], stored[f"{module}.weight_scale"] = code, scale.reshape(-1)
            expected[name] = code.float() * scale
        else:
            stored[name] = tensor
    save_shards(stored, index)
    return expected


def shards(tensors, index):
    save_shards(tensors, index)
    return floats(tensors)


def diffusers_name(name):
    pieces = name.rsplit(".", 1)
    module, end = (name, "") if len(pieces) == 1 else pieces
    if end == "modulation":
        inside = module.startswith("blocks.")
        return f"{module}.scale_shift_table" if inside else "scale_shift_table"
    if module.startswith("blocks."):
        _, number, layer = module.split(".", 2)
        return f"blocks.{number}.{INSIDE[layer]}.{end}"
    return f"{OUTSIDE.get(module, module)}.{end}"


def diffusers(tensors, folder):
    """A part's folder as `save_pretrained` writes it: shards, their index, and diffusers' names."""
    renamed = {diffusers_name(name): tensor for name, tensor in tensors.items()}
    assert len(renamed) == len(tensors)
    save_shards(renamed, folder / "diffusion_pytorch_model.safetensors.index.json")
    return floats(tensors)


def pickled(legacy):
    def write(tensors, path):
        torch.save({"state_dict": tensors}, path, _use_new_zipfile_serialization=not legacy)
        return floats(tensors)

    return write


def ggml(kind):
    """City96's layout: layers' matrices in one type, all else in f32."""
    kind = getattr(gguf.GGMLQuantizationType, kind)

    def write(tensors, path):
        writer, expected = gguf.GGUFWriter(path, "wan"), floats(tensors)
        for name, tensor in tensors.items():
            values = tensor.float().numpy()
            if is_layer(name, tensor):
                blocks = gguf.quants.quantize(values, kind)
                writer.add_tensor(name, blocks, raw_dtype=kind)
                expected[name] = torch.from_numpy(gguf.quants.dequantize(blocks, kind).astype("float32"))
            else:
                writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return expected

    return write


def read_ggml(path):
    """A GGUF file as gguf-py reads it."""
    expected = {}
    for tensor in gguf.GGUFReader(path).tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype("float32")
        expected[tensor.name] = torch.from_numpy(values.reshape(shape).copy())
    return expected


F8 = {"format": "float8_e4m3fn"}
INT8 = {"format": "int8_tensorwise"}
# Name of the file → by whom, and the writer.
WRITERS = {
    "f32.safetensors": ("PyTorch", cast(torch.float32)),
    "f16.safetensors": ("PyTorch", cast(torch.float16)),
    "bf16.safetensors": ("PyTorch", cast(torch.bfloat16)),
    "sharded.safetensors.index.json": ("PyTorch", shards),
    "transformer": ("PyTorch", diffusers),
    "zip.pth": ("PyTorch", pickled(False)),
    "legacy.pth": ("PyTorch", pickled(True)),
    "fp8_e4m3.safetensors": ("PyTorch", plain_fp8(E4M3)),
    "fp8_e5m2.safetensors": ("PyTorch", plain_fp8(E5M2)),
    "scale_weight.safetensors": (
        "PyTorch",
        scaled(E4M3, "scale_weight", marker=torch.zeros(2, dtype=E4M3), prefix=COMFY, inputs="scale_input"),
    ),
    "scale_weight_e5m2.safetensors": (
        "PyTorch",
        scaled(E5M2, "scale_weight", marker=torch.zeros(0, dtype=E5M2), prefix=COMFY),
    ),
    "weight_scale.safetensors": ("PyTorch", scaled(E4M3, "weight_scale", marker=torch.zeros(0))),
    "comfy_quant.safetensors": ("PyTorch", scaled(E4M3, "weight_scale", described=F8, prefix=COMFY, inputs="input_scale")),
    "comfy_header.safetensors": ("PyTorch", scaled(E4M3, "weight_scale", described=F8, header=True, prefix=COMFY)),
    "comfy_int8.safetensors": ("PyTorch", scaled(torch.int8, "weight_scale", described=INT8)),
    "comfy_int8_rows.safetensors": ("PyTorch", scaled(torch.int8, "weight_scale", rows=True, described=INT8)),
    "comfy_int8_rotated.safetensors": ("PyTorch", rotated),
    "lightx2v_fp8.safetensors": ("PyTorch", scaled(E4M3, "weight_scale", rows=True)),
    "lightx2v_int8.safetensors": ("PyTorch", scaled(torch.int8, "weight_scale", rows=True)),
    "turbo.pth": ("PyTorch", turbo),
    "quantized_model.safetensors.index.json": ("PyTorch", longcat),
    **{f"{kind}.gguf": ("gguf-py", ggml(kind)) for kind in ("F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")},
}
# What gguf-py can read only.
OURS = ["q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_m", "q3_k_s", "q2_k", "iq4_nl", "iq4_xs"]
