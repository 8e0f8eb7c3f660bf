"""LoRA files in every spelling that circulates for Wan, and the weights they make, by PyTorch.

    python tests/reference/make_lora.py        # crates/weights/tests/fixtures/lora

All numbers are multiples of 1/16 of at most a few units, so that every f32 sum is exact whatever its order: the merged
weights must agree to the bit. `base.safetensors` is bfloat16 and f32 mixed; `<name>.expected.safetensors` holds the
weights that `<name>` changes, merged in f32 and rounded once to the stored type.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

FOLDER = Path(__file__).resolve().parents[2] / "crates/weights/tests/fixtures/lora"
RANK = 4
SHAPES = {
    "patch_embedding.weight": (8, 3, 1, 2, 2),
    "patch_embedding.bias": (8,),
    "head.head.weight": (6, 8),
    "head.head.bias": (6,),
    "head.modulation": (1, 2, 8),
    "img_emb.proj.1.weight": (8, 5),
    "img_emb.proj.1.bias": (8,),
}
for block in range(2):
    for attention in ("self_attn", "cross_attn"):
        for layer in "qkvo":
            SHAPES[f"blocks.{block}.{attention}.{layer}.weight"] = (8, 8)
            SHAPES[f"blocks.{block}.{attention}.{layer}.bias"] = (8,)
        SHAPES[f"blocks.{block}.{attention}.norm_q.weight"] = (8,)
    SHAPES[f"blocks.{block}.ffn.0.weight"] = (12, 8)
    SHAPES[f"blocks.{block}.ffn.0.bias"] = (12,)
    SHAPES[f"blocks.{block}.modulation"] = (1, 6, 8)

DIFFUSERS = [
    ("self_attn.o", "attn1.to_out.0"),
    ("self_attn.", "attn1.to_"),
    ("cross_attn.o", "attn2.to_out.0"),
    ("cross_attn.", "attn2.to_"),
    ("ffn.0", "ffn.net.0.proj"),
    ("img_emb.proj.1", "condition_embedder.image_embedder.ff.net.0.proj"),
    ("head.head", "proj_out"),
]
LINEAR = ["blocks.0.self_attn.q", "blocks.1.self_attn.o", "blocks.1.cross_attn.k", "blocks.0.ffn.0", "img_emb.proj.1", "head.head"]


class Numbers:
    """Multiples of 1/16 in [-1, 1]."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape):
        return torch.randint(-16, 17, shape, generator=self.generator).float() / 16


def diffusers(module):
    for ours, theirs in DIFFUSERS:
        if ours in module:
            return module.replace(ours, theirs)
    return module


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    numbers = Numbers(1)
    # Half of the base is wider than bfloat16, as norms and modulation are in published files.
    base = {name: numbers(*shape) * 3 for name, shape in SHAPES.items()}
    base = {n: t if n.startswith("blocks.1") else t.bfloat16() for n, t in base.items()}
    save_file(base, FOLDER / "base.safetensors")

    def case(name, file, changes, dtype=torch.bfloat16):
        """`file`: tensors under their spelling; `changes`: canonical name to its difference in f32."""
        # Multiples of 1/16 up to 1 are exact in bfloat16 and float16.
        file = {k: v.to(dtype) if v.is_floating_point() else v for k, v in file.items()}
        merged = {n: (base[n].float() + d.reshape(base[n].shape)).to(base[n].dtype) for n, d in changes.items()}
        if name.endswith(".pth"):
            torch.save(file, FOLDER / name)
        else:
            save_file({k: v.contiguous() for k, v in file.items()}, FOLDER / name)
        save_file(merged, FOLDER / f"{Path(name).stem}.expected.safetensors")

    def pairs(spell, down, up, modules=LINEAR, alpha=None):
        file, changes = {}, {}
        for module in modules:
            out, inner = SHAPES[f"{module}.weight"]
            a, b = numbers(RANK, inner), numbers(out, RANK)
            stem = spell(module)
            file[stem + down], file[stem + up] = a, b
            scale = 1.0
            if alpha is not None:
                file[f"{stem}.alpha"] = torch.tensor(alpha)
                scale = float(alpha) / RANK
            changes[f"{module}.weight"] = scale * (b @ a)
        return file, changes

    # ComfyUI, lora_A/lora_B.
    case("comfyui.safetensors", *pairs(lambda m: f"diffusion_model.{m}", ".lora_A.weight", ".lora_B.weight"))

    # LightX2V: lora_down/lora_up, and differences of biases, norms and modulation; a patch embedding as a pair.
    file, changes = pairs(lambda m: f"diffusion_model.{m}", ".lora_down.weight", ".lora_up.weight")
    for module in LINEAR:
        file[f"diffusion_model.{module}.diff_b"] = changes[f"{module}.bias"] = numbers(*SHAPES[f"{module}.bias"])
    for module in ("blocks.0.self_attn.norm_q", "blocks.1.cross_attn.norm_q"):
        file[f"diffusion_model.{module}.diff"] = changes[f"{module}.weight"] = numbers(8)
    for module in ("blocks.0", "blocks.1", "head"):
        file[f"diffusion_model.{module}.diff_m"] = changes[f"{module}.modulation"] = numbers(*SHAPES[f"{module}.modulation"])
    a, b = numbers(RANK, 3, 1, 2, 2), numbers(8, RANK, 1, 1, 1)
    file["diffusion_model.patch_embedding.lora_down.weight"] = a
    file["diffusion_model.patch_embedding.lora_up.weight"] = b
    changes["patch_embedding.weight"] = b.reshape(8, RANK) @ a.reshape(RANK, -1)
    case("lightx2v.safetensors", file, changes)

    # diffusers, PEFT's bare matrices with an adapter's name and a bias of lora_B.
    case("diffusers.safetensors", *pairs(lambda m: f"transformer.{diffusers(m)}", ".lora_A.weight", ".lora_B.weight"), torch.float16)
    file, changes = pairs(diffusers, ".lora_A.fast.weight", ".lora_B.fast.weight")
    file["blocks.0.attn1.to_q.lora_B.fast.bias"] = changes["blocks.0.self_attn.q.bias"] = numbers(8)
    case("adapter.safetensors", file, changes, torch.float32)
    case("peft.pth", *pairs(lambda m: f"base_model.model.{m}", ".lora_A.default.weight", ".lora_B.default.weight"))

    # kohya: dots are underscores, an alpha that is a whole number or not; diffusers' names under it; Wan-Fun's prefix.
    flat = lambda name: name.replace(".", "_")
    case("kohya.safetensors", *pairs(lambda m: f"lora_unet_{flat(m)}", ".lora_down.weight", ".lora_up.weight", alpha=2.0))
    case("kohya_int.safetensors", *pairs(lambda m: f"lora_unet__{flat(m)}", ".lora_down.weight", ".lora_up.weight", alpha=8))
    case("kohya_diffusers.safetensors", *pairs(lambda m: f"lora_unet_{flat(diffusers(m))}", ".lora_down.weight", ".lora_up.weight", alpha=1.0))

    # DiffSynth, and the older spellings of diffusers.
    case("diffsynth.safetensors", *pairs(lambda m: f"pipe.dit.{m}", ".lora_A.default.weight", ".lora_B.default.weight"))
    case("old_diffusers.safetensors", *pairs(lambda m: m, "_lora.down.weight", "_lora.up.weight"))
    case("linear_layer.safetensors", *pairs(lambda m: m, ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"))

    # lora___lorahyphen___: the scale itself, and lora_up in blocks of rows.
    hyphen = "___lorahyphen___"
    file, changes = pairs(lambda m: f"lora{hyphen}{m.replace('.', hyphen)}", ".lora_down.weight", ".lora_up.weight")
    stem = f"lora{hyphen}blocks{hyphen}1{hyphen}ffn{hyphen}0"
    a, bs = numbers(3 * RANK, 8), [numbers(rows, RANK) for rows in (5, 3, 4)]
    file |= {f"{stem}.lora_down.weight": a, f"{stem}.alpha_scale": torch.tensor(0.5)}
    file |= {f"{stem}.lora_up.blocks.{j}.weight": b for j, b in enumerate(bs)}
    changes["blocks.1.ffn.0.weight"] = 0.5 * torch.cat([b @ a[j * RANK : (j + 1) * RANK] for j, b in enumerate(bs)])
    case("lorahyphen.safetensors", file, changes)

    # Whole differences of weights.
    file = {f"diffusion_model.{n.removesuffix('.weight')}.diff": numbers(*SHAPES[n]) for n in ("head.head.weight", "patch_embedding.weight")}
    file["diffusion_model.blocks.0.modulation.diff"] = numbers(1, 6, 8)
    names = ["head.head.weight", "patch_embedding.weight", "blocks.0.modulation"]
    case("differences.safetensors", file, dict(zip(names, file.values())))


if __name__ == "__main__":
    main()
