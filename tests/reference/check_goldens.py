"""Holds this folder's implementation against the project's golden fixtures: `check_goldens.py GOLDEN_DIR`.

The fixtures come from the reference implementations, so agreement here is what makes the tiny pipeline an oracle.
Every line is the largest relative L2 error of a case and the case's tolerance; the exit status is 1 if one fails.
"""

import sys
from pathlib import Path

import torch

from steadydancer_dit import DitConfig, SteadyDancerDit
from wan_parts import (
    Case, UniPc, build_clip, build_umt5, build_vae, clip_from_wan, clip_pixels, decode_latents, encode_image,
    encode_text, encode_video, frame_mask, load_renamed, relative_error, resize, sample, umt5_wan_name, vae_wan_name,
)  # fmt: skip


def dit_of(config: dict, weights: dict) -> SteadyDancerDit:
    model = SteadyDancerDit(DitConfig(**config)).eval()
    model.load_state_dict(weights)
    return model


def with_mask(latents: torch.Tensor, fill: float) -> torch.Tensor:
    """[36,1,h,w] of a single frame's latents: latents, four channels of `fill`, latents."""
    return torch.cat([latents, torch.full_like(latents[:4], fill), latents])


def check_dit(case: Case) -> float:
    i = case.inputs
    velocity = dit_of(case.config, case.weights)(
        i["x"], i["t"].item(), i["context"], i["y"], i["condition"], i["ref_x"], i["ref_c"], i["clip_fea_x"], i["clip_fea_c"]
    )
    return relative_error(velocity, case.outputs["velocity"])


def check_scheduler(case: Case) -> float:
    scheduler, x = UniPc(case.config["steps"], case.config["shift"]), case.inputs["latents"]
    assert scheduler.timesteps == [int(t) for t in case.outputs["timesteps"]], "timesteps differ"
    errors = [relative_error(torch.tensor(scheduler.sigmas), case.outputs["sigmas"])]
    for velocity, expected in zip(case.inputs["velocity"], case.outputs["latents_per_step"]):
        x = scheduler.step(velocity, x)
        errors.append(relative_error(x, expected))
    return max(errors)


def check_sampling(case: Case) -> float:
    cfg, i = case.config, case.inputs
    dit = dit_of(cfg["dit"], case.weights)
    text, pose = {"+": i["context"], "-": i["context_null"]}, {"+": i["condition"], "-": i["condition_null"]}
    mask = frame_mask(cfg["frames"], *i["noise"].shape[2:])
    y = torch.cat([mask, i["first_frame_latents"]])
    ref, pose_ref = with_mask(i["ref_x_latents"], 1), with_mask(i["ref_c_latents"], 0)
    trace = sample(
        lambda x, t, a, b: dit(x, t, text[a], y, pose[b], ref, pose_ref, i["clip_fea_x"], i["clip_fea_c"]),
        i["noise"], steps=cfg["steps"], shift=cfg["shift"], guidance_scale=cfg["sample_guide_scale"],
        pose_guidance_scale=cfg["condition_guide_scale"], interval=(cfg["st_cond_cfg"], cfg["end_cond_cfg"]),
    )  # fmt: skip
    o = case.outputs
    assert torch.equal(mask, o["mask"]), "mask differs"
    assert [len(b) for b in trace["branches"]] == o["forwards_per_step"].tolist(), "forwards per step differ"
    return max(
        relative_error(torch.stack(trace["velocity"]), o["velocity_per_step"]),
        relative_error(torch.stack(trace["latents"]), o["latents_per_step"]),
    )


def check_vae(case: Case) -> float:
    vae = build_vae(case.config)
    load_renamed(vae, case.weights, vae_wan_name)
    return max(
        relative_error(encode_video(vae, case.inputs["video"]), case.outputs["encoded"]),
        relative_error(decode_latents(vae, case.inputs["latents"]), case.outputs["decoded"].clamp(-1, 1)),
    )


def check_umt5(case: Case) -> float:
    model = build_umt5(case.config)
    load_renamed(model, case.weights, umt5_wan_name)
    n = int(case.inputs["mask"].sum())
    ids = case.inputs["ids"][0]
    return relative_error(encode_text(model, ids[:n].tolist(), len(ids)), case.outputs["hidden"])


def check_clip(case: Case) -> float:
    model = build_clip(case.config)
    clip_from_wan(case.weights, model)
    return relative_error(encode_image(model, case.inputs["pixels"]), case.outputs["hidden"])


def check_preprocess(case: Case) -> float:
    image = case.inputs["image"].permute(2, 0, 1).float() / 255 * 2 - 1
    errors = [
        relative_error(resize(image, tuple(size)), case.outputs[f"bicubic_{n}"])
        for n, size in enumerate(case.config["sizes_hw"])
    ]
    pixels = clip_pixels(image, 224)
    errors.append(relative_error(pixels[0, :, :16, :16], case.outputs["clip_pixels_corner"]))
    errors.append(relative_error(pixels.mean((2, 3)), case.outputs["clip_pixels_mean"]))
    return max(errors)


CHECKS = {
    "dit.steadydancer": check_dit,
    "scheduler.unipc": check_scheduler,
    "sampling.steadydancer": check_sampling,
    "vae.wan21": check_vae,
    "text_encoder.umt5": check_umt5,
    "image_encoder.clip_vision": check_clip,
    "preprocess.image": check_preprocess,
}


@torch.inference_mode()
def main(folder: Path) -> bool:
    good, seen = True, set()
    for path in sorted(folder.glob("*.safetensors")):
        case = Case(path)
        component = case.metadata["component"]
        if component not in CHECKS:
            continue
        seen.add(component)
        error = CHECKS[component](case)
        good &= error <= case.tolerance
        print(f"{path.name:44} {component:26} {error:.2e}  tolerance {case.tolerance:.0e}"
              + ("" if error <= case.tolerance else "  FAILED"))
    for component in CHECKS.keys() - seen:
        good = False
        print(f"no case of {component} in {folder}")
    return good


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(0 if main(Path(sys.argv[1])) else 1)
