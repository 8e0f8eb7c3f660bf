"""Whole models by independent writers: python check_forms.py STEADYDANCE [FOLDER]

Writes the demo's transformer as GGUF (gguf-py) and as scaled fp8 (torch, under ComfyUI's prefix), lets the program inspect each and
compare it with the original, and lets it write Q8_0, Q5_1 and Q4_0 itself: those must be equal to gguf-py's, every number. No test needs it.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import torch
from safetensors.torch import load_file, save_file

DEMO = Path(__file__).parents[2] / "models/demo/dit.safetensors"
PREFIX = "model.diffusion_model."
# The largest relative error of a matrix that each form may have.
ALLOWED = {"Q8_0": 0.006, "Q5_1": 0.04, "Q4_0": 0.09, "fp8": 0.03}


def is_layer(name, tensor):
    return name.startswith("blocks.") and tensor.dim() == 2 and name.endswith(".weight")


def write_gguf(tensors, form, path):
    kind = getattr(gguf.GGMLQuantizationType, form)
    writer = gguf.GGUFWriter(path, "wan")
    for name, tensor in tensors.items():
        values = tensor.float().numpy()
        if is_layer(name, tensor):
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_fp8(tensors, path):
    out = {PREFIX + "scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
    for name, tensor in tensors.items():
        if is_layer(name, tensor):
            scale = tensor.float().abs().max() / 448
            out[PREFIX + name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            out[PREFIX + name.removesuffix("weight") + "scale_weight"] = scale.reshape(())
        else:
            out[PREFIX + name] = tensor
    save_file(out, path)


def main():
    program, folder = sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp())
    run = lambda *line: subprocess.run([program, *map(str, line)], check=True, capture_output=True, text=True).stdout
    tensors = load_file(DEMO)
    for form, allowed in ALLOWED.items():
        path = folder / (f"{form}.safetensors" if form == "fp8" else f"{form}.gguf")
        write_fp8(tensors, path) if form == "fp8" else write_gguf(tensors, form, path)
        network = json.loads(run("inspect", path, "--json"))["network"]
        assert network["component"] == "dit" and network["deviations"] is None, network
        found = json.loads(run("inspect", DEMO, "--compare", path, "--json"))
        worst = found["tensors"][0]
        assert not found["missing"] and not found["added"] and worst["relative_error"] <= allowed, worst
        note = ""
        if form not in ("Q4_0", "fp8"):  # the customary q4_0 has Q4_1 for some matrices
            ours = folder / f"ours-{form}.gguf"
            run("convert", DEMO, "--to", form.lower(), "-o", ours, "--force")
            same = json.loads(run("inspect", ours, "--compare", path, "--json"))
            assert all(t["largest_error"] == 0 for t in same["tensors"]), same["tensors"][0]
            note = "; ours is equal"
        print(f"{form}: every tensor fits, worst matrix {worst['relative_error']:.1e} off{note}")


if __name__ == "__main__":
    main()
