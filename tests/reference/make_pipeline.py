"""Writes tests/fixtures/pipeline_tiny: a tiny SteadyDancer checkpoint in the official folder layout, and for each case
the inputs, the request and every intermediate tensor of `generate()` in float32 on one CPU thread.

`make_pipeline.py [GOLDEN_DIR]`; with a folder of golden fixtures the implementation is first held against them.
"""

import json
import math
import random
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import check_goldens
from steadydancer_dit import DitConfig, SteadyDancerDit
from wan_parts import (
    LATENT_MEAN, LATENT_STD, build_clip, build_umt5, build_vae, clip_from_wan, clip_pixels, clip_to_wan, decode_latents,
    encode_image, encode_text, encode_video, frame_mask, load_renamed, model_size, relative_error, resize, sample,
    to_tensor, umt5_wan_name, vae_wan_name,
)  # fmt: skip
from wan_text import DEFAULT_NEGATIVE_PROMPT, TEXT_LEN, clean, encode, load_tokenizer

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
OUT = FIXTURES / "pipeline_tiny"
TOKENIZER = FIXTURES / "tokenizer" / "tokenizer.json"

DIT = DitConfig(dim=128, ffn_dim=192, num_heads=2, num_layers=2, text_dim=32, clip_dim=48, freq_dim=64, text_len=TEXT_LEN)
UMT5 = dict(vocab=928, dim=32, dim_attn=32, dim_ffn=64, num_heads=2, num_layers=2, num_buckets=32, shared_pos=False)
CLIP = dict(image_size=56, patch_size=14, dim=48, mlp_ratio=4, out_dim=32, num_heads=4, num_layers=3,
            activation="gelu", eps=1e-5)  # fmt: skip
VAE = dict(dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, temporal_downsample=[False, True, True],
           mean=LATENT_MEAN, std=LATENT_STD)  # fmt: skip

CASES = {
    # portrait; steps 1 and 2 run three forwards, with the pose branch
    "portrait_9": dict(
        reference=(96, 128), pose=(160, 208), seed=11,
        request=dict(
            prompt="A young woman in a red dress is dancing slowly on a beach at sunset; the camera doesn't move.",
            negative_prompt=DEFAULT_NEGATIVE_PROMPT, size="64x64", num_frames=9, num_inference_steps=6, sampler="unipc",
            shift=5.0, guidance_scale=5.0, pose_guidance_scale=1.0, pose_guidance_interval=[0.1, 0.4],
        ),
    ),
    # landscape; only step 1 runs three forwards: the window's end, 2/4, is excluded
    "landscape_5": dict(
        reference=(128, 96), pose=(208, 160), seed=12,
        request=dict(
            prompt=" Die Tänzerin\nspringt nach links &amp;amp; lächelt.  机器人转身举起双手。",
            negative_prompt="low quality, blurred “background”", size="64x64", num_frames=5, num_inference_steps=4,
            sampler="unipc", shift=3.0, guidance_scale=3.0, pose_guidance_scale=1.5, pose_guidance_interval=[0.1, 0.5],
        ),
    ),
}  # fmt: skip


# ---- weights --------------------------------------------------------------------------------------------------------


def randomize(model: nn.Module, seed: int, scale: dict[str, float]) -> None:
    """Seeded weights that keep the signal's size, rounded to bfloat16; `scale` multiplies tensors by name's end."""
    rng = torch.Generator().manual_seed(seed)
    for name, p in sorted(model.named_parameters()):
        x = torch.randn(p.shape, generator=rng)
        if name.endswith("modulation"):
            x = 0.3 * x
        elif name.endswith("bias"):
            x = 0.05 * x
        elif "norm" in name or "bn" in name or name.endswith("gamma") or "proj.0" in name or "proj.4" in name:
            x = 1 + 0.1 * x
        elif p.dim() > 1 and "embed_tokens" not in name and "shared" not in name and "attention_bias" not in name:
            x = x / math.sqrt(p[0].numel())
        for end, factor in scale.items():
            if name.endswith(end):
                x = factor * x
        p.data = x.bfloat16().float()


def stored(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """bfloat16 copies, each with its own storage; the rounding is exact, or something is wrong."""
    out = {k: v.bfloat16().contiguous().clone() for k, v in sorted(state.items())}
    assert all(torch.equal(out[k].float(), state[k]) for k in out)
    return out


def build_networks() -> tuple:
    dit, umt5, clip, vae = SteadyDancerDit(DIT).eval(), build_umt5(UMT5), build_clip(CLIP), build_vae(VAE)
    randomize(dit, 1, {"time_projection.1.weight": 0.5})
    # UMT5 does not scale its logits; the queries carry the scale.
    randomize(umt5, 2, {"SelfAttention.q.weight": (UMT5["dim_attn"] / UMT5["num_heads"]) ** -0.5})
    randomize(clip, 3, {"position_embedding.weight": 3.0})
    randomize(vae, 4, {"encoder.conv_out.weight": 3.0, "decoder.conv_out.weight": 0.5})
    return dit, umt5, clip, vae


def save_model(folder: Path, dit: nn.Module, umt5: nn.Module, clip: nn.Module, vae: nn.Module) -> None:
    """The layout of MCG-NJU/SteadyDancer-14B, plus `steadydance.json` for what tensors of these sizes cannot tell."""
    folder.mkdir(parents=True, exist_ok=True)
    state = stored(dit.state_dict())
    shards, total = [{}, {}], sum(v.nbytes for v in state.values())
    for key, value in state.items():  # the second shard starts at half of the bytes
        shards[sum(v.nbytes for v in shards[0].values()) >= total / 2][key] = value
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        name = f"diffusion_pytorch_model-{i:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, name)
    write_json(folder / "diffusion_pytorch_model.safetensors.index.json",
               {"metadata": {"total_size": total}, "weight_map": weight_map})  # fmt: skip
    fields = ("dim", "eps", "ffn_dim", "freq_dim", "in_dim", "model_type", "num_heads", "num_layers", "out_dim", "text_len")
    write_json(folder / "config.json",
               {"_class_name": "WanModel", "_diffusers_version": "0.30.0"} | {k: getattr(DIT, k) for k in fields})  # fmt: skip

    torch.save(stored({vae_wan_name(k): v for k, v in vae.state_dict().items()}), folder / "Wan2.1_VAE.pth")
    text = {umt5_wan_name(k): v for k, v in umt5.state_dict().items() if k != "encoder.embed_tokens.weight"}
    torch.save(stored(text), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    rng = torch.Generator().manual_seed(5)
    noise = lambda *shape: torch.randn(shape, generator=rng).bfloat16().float()
    image = {f"visual.{k}": v for k, v in clip_to_wan(clip.state_dict()).items()}
    image |= {"visual.head": noise(CLIP["dim"], CLIP["out_dim"]), "log_scale": noise()}
    # Of the text tower, which nobody reads: a loader must pass over it.
    image |= {"textual.token_embedding.weight": noise(10, 6), "textual.blocks.0.attn.q.bias": noise(6)}
    torch.save(stored(image), folder / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")

    tokenizer = folder / "google" / "umt5-xxl" / "tokenizer.json"
    tokenizer.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.write_bytes(TOKENIZER.read_bytes())
    write_json(folder / "steadydance.json", {"dit": asdict(DIT), "umt5": UMT5, "clip": CLIP, "vae": VAE})


def load_model(folder: Path) -> tuple:
    """The networks back from the files, every tensor used: what the expected tensors are computed with."""
    config = json.loads((folder / "steadydance.json").read_text())
    index = json.loads((folder / "diffusion_pytorch_model.safetensors.index.json").read_text())["weight_map"]
    shards = {name: load_file(folder / name) for name in set(index.values())}
    f32 = lambda state: {k: v.float() for k, v in state.items()}
    pth = lambda name: f32(torch.load(folder / name, weights_only=True))
    dit, umt5 = SteadyDancerDit(DitConfig(**config["dit"])).eval(), build_umt5(config["umt5"])
    clip, vae = build_clip(config["clip"]), build_vae(config["vae"])
    dit.load_state_dict(f32({k: shards[name][k] for k, name in index.items()}))
    load_renamed(umt5, pth("models_t5_umt5-xxl-enc-bf16.pth"), umt5_wan_name)
    load_renamed(vae, pth("Wan2.1_VAE.pth"), vae_wan_name)
    image = pth("models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")
    clip_from_wan({k.removeprefix("visual."): v for k, v in image.items() if k.startswith("visual.")}, clip)
    return dit, umt5, clip, vae


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# ---- pictures -------------------------------------------------------------------------------------------------------

# joints in units of the figure's height, about the neck; limbs as pairs of them
JOINTS = dict(head=(0, -0.2), neck=(0, 0), hip=(0, 0.45), knee_l=(-0.1, 0.7), foot_l=(-0.12, 0.95), knee_r=(0.1, 0.7),
              foot_r=(0.12, 0.95))  # fmt: skip
LIMBS = ["neck head", "neck hip", "hip knee_l", "knee_l foot_l", "hip knee_r", "knee_r foot_r", "neck elbow_l",
         "elbow_l hand_l", "neck elbow_r", "elbow_r hand_r"]  # fmt: skip
COLOURS = [(153, 0, 0), (0, 0, 153), (0, 153, 153), (0, 153, 51), (153, 0, 153), (153, 51, 0), (153, 153, 0), (51, 153, 0),
           (0, 102, 153), (102, 0, 153)]  # fmt: skip


def figure(size: tuple[int, int], phase: float, stretch: tuple[float, float]) -> dict[str, tuple[float, float]]:
    """Joint positions in pixels of a figure that swings its arms and sways."""
    joints = dict(JOINTS)
    for side, sign in (("l", -1), ("r", 1)):
        a = 0.6 + 0.8 * math.sin(phase + sign)
        elbow = (sign * 0.2 * math.cos(a), 0.05 - 0.2 * math.sin(a))
        joints[f"elbow_{side}"] = elbow
        joints[f"hand_{side}"] = (elbow[0] + sign * 0.18 * math.cos(2 * a), elbow[1] - 0.18 * math.sin(2 * a))
    w, h = size
    centre, unit = (w * (0.5 + 0.06 * math.sin(phase)), h * 0.32), 0.6 * h
    return {k: (centre[0] + x * unit * stretch[0], centre[1] + y * unit * stretch[1]) for k, (x, y) in joints.items()}


def draw_pose(size: tuple[int, int], phase: float, stretch: tuple[float, float]) -> Image.Image:
    image = Image.new("RGB", size)
    draw = ImageDraw.Draw(image)
    at = figure(size, phase, stretch)
    for limb, colour in zip(LIMBS, COLOURS):
        a, b = limb.split()
        draw.line([at[a], at[b]], fill=colour, width=14)
    for (x, y), colour in zip(at.values(), COLOURS * 2):
        draw.ellipse([x - 8, y - 8, x + 8, y + 8], fill=tuple(min(255, c * 5 // 3) for c in colour))
    return image


def draw_reference(size: tuple[int, int], seed: int) -> Image.Image:
    """A figure with a body before sky and ground, with some grain."""
    w, h = size
    rng = random.Random(seed)
    image = Image.new("RGB", size)
    for y in range(h):
        for x in range(w):
            sky = (90 + 100 * y // h, 130 + 60 * x // w, 220 - 60 * y // h)
            ground = (120 + 40 * ((x // 8 + y // 8) % 2), 100, 60)
            image.putpixel((x, y), tuple(c + rng.randrange(-8, 9) for c in (sky if y < 0.75 * h else ground)))
    draw = ImageDraw.Draw(image)
    at = figure(size, 0.3, (1.0, 1.0))
    for limb in LIMBS:
        a, b = limb.split()
        draw.line([at[a], at[b]], fill=(200, 40, 50) if b in ("hip", "knee_l", "knee_r") else (230, 180, 150), width=8)
    x, y = at["head"]
    draw.ellipse([x - 9, y - 10, x + 9, y + 8], fill=(235, 190, 160), outline=(60, 30, 20), width=2)
    return image


def draw_case(folder: Path, case: dict) -> None:
    rng = random.Random(case["seed"])
    for sub in ("pose", "neg_pose"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    draw_reference(case["reference"], case["seed"]).save(folder / "ref.png")
    for i in range(case["request"]["num_frames"]):
        phase = 0.3 + 0.35 * i
        draw_pose(case["pose"], phase, (1.0, 1.0)).save(folder / "pose" / f"{i:04}.png")
        stretch = (rng.uniform(0.6, 1.4), rng.uniform(0.7, 1.3))
        draw_pose(case["pose"], phase, stretch).save(folder / "neg_pose" / f"{i:04}.png")


# ---- the pipeline ---------------------------------------------------------------------------------------------------


def generate(folder: Path, request: dict, seed: int, networks: tuple) -> dict[str, Tensor]:
    """SteadyDancer's `generate()`, from the files in `folder` to frames in [-1,1], keeping every stage."""
    dit, umt5, clip, vae = networks
    ref_image = Image.open(folder / "ref.png").convert("RGB")
    frames = request["num_frames"]

    def load_poses(sub: str) -> list[Image.Image]:  # brought to the reference's own size by PIL, antialiased
        files = [folder / sub / f"{i:04}.png" for i in range(frames)]
        return [Image.open(f).convert("RGB").resize(ref_image.size, Image.Resampling.BICUBIC) for f in files]

    pose_images = load_poses("pose")
    ref, pose = to_tensor(ref_image), [to_tensor(x) for x in pose_images]
    neg_pose = [to_tensor(x) for x in load_poses("neg_pose")]
    area = math.prod(int(side) for side in request["size"].split("x"))
    height, width = model_size(area, ref_image.height, ref_image.width)
    at_model_size = lambda images: torch.stack([resize(x, (height, width)) for x in images], 1)

    tokenizer = load_tokenizer(TOKENIZER)
    ids = {k: encode(tokenizer, clean(request[p])) for k, p in (("+", "prompt"), ("-", "negative_prompt"))}
    text = {k: encode_text(umt5, v, TEXT_LEN) for k, v in ids.items()}

    ref_pixels, pose_pixels = (clip_pixels(x, CLIP["image_size"]) for x in (ref, pose[0]))
    ref_embeds, pose_embeds = encode_image(clip, ref_pixels), encode_image(clip, pose_pixels)

    video, poses = at_model_size([ref]), at_model_size(pose)
    image_latents = encode_video(vae, torch.cat([video, torch.zeros(3, frames - 1, height, width)], 1))
    ref_latents, pose_ref_latents = encode_video(vae, video), encode_video(vae, poses[:, :1])
    pose_latents = {"+": encode_video(vae, poses), "-": encode_video(vae, at_model_size(neg_pose))}
    mask = frame_mask(frames, *image_latents.shape[2:])
    y = torch.cat([mask, image_latents])
    ref36 = check_goldens.with_mask(ref_latents, 1)
    pose_ref36 = check_goldens.with_mask(pose_ref_latents, 0)

    noise = torch.randn(image_latents.shape, generator=torch.Generator().manual_seed(seed))
    trace = sample(
        lambda x, t, a, b: dit(x, t, text[a], y, pose_latents[b], ref36, pose_ref36, ref_embeds, pose_embeds),
        noise, steps=request["num_inference_steps"], shift=request["shift"], guidance_scale=request["guidance_scale"],
        pose_guidance_scale=request["pose_guidance_scale"], interval=request["pose_guidance_interval"],
    )  # fmt: skip
    decoded = decode_latents(vae, trace["latents"][-1])

    c, without_text, without_pose = trace["branches"][1]
    assert relative_error(without_text, c) > 0.01 and relative_error(without_pose, c) > 0.01, "a condition does nothing"
    assert (decoded.abs() == 1).float().mean() < 0.1 and decoded.std() > 0.1, "the decoded video says too little"
    pad = lambda x: nn.functional.pad(x, (0, 0, 0, TEXT_LEN - x.shape[0]))
    return {
        "text_ids": torch.tensor(ids["+"])[None], "neg_text_ids": torch.tensor(ids["-"])[None],
        "text_embeds": pad(text["+"])[None], "neg_text_embeds": pad(text["-"])[None],
        "pose_image_first": torch.from_numpy(np.array(pose_images[0])),  # u8 [h,w,3] at the reference's size
        "ref_image_pixels": ref_pixels, "pose_image_pixels": pose_pixels,
        "ref_image_embeds": ref_embeds, "pose_image_embeds": pose_embeds,
        "ref_frame": video[None], "pose_frame_first": poses[None, :, :1],
        "image_latents": image_latents[None], "frame_mask": mask[None],
        "ref_latents": ref_latents[None], "pose_ref_latents": pose_ref_latents[None],
        "pose_latents": pose_latents["+"][None], "neg_pose_latents": pose_latents["-"][None],
        "noise": noise[None], "sigmas": torch.tensor(trace["sigmas"]), "timesteps": torch.tensor(trace["timesteps"]),
        "forwards_per_step": torch.tensor([len(b) for b in trace["branches"]]),
        "branch_velocity_step_1": torch.stack(trace["branches"][1]),
        "velocity_per_step": torch.stack(trace["velocity"]), "latents_per_step": torch.stack(trace["latents"]),
        "video": decoded,
    }  # fmt: skip


@torch.inference_mode()
def main(goldens: Path | None) -> None:
    if goldens:
        assert check_goldens.main(goldens), "this implementation is not the reference's"
    save_model(OUT / "model", *build_networks())
    networks = load_model(OUT / "model")
    for name, case in CASES.items():
        folder = OUT / name
        draw_case(folder, case)
        expected = generate(folder, case["request"], case["seed"], networks)
        save_file({k: v.contiguous() for k, v in expected.items()}, folder / "expected.safetensors")
        height, width = expected["video"].shape[2:]
        write_json(folder / "request.json", case["request"] | {"height": height, "width": width})
        for key, value in expected.items():
            value = value.float()
            print(f"{name:12} {key:24} {str(list(value.shape)):22} mean {value.mean():+.3f} std {value.std():.3f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
