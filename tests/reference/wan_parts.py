"""The parts around the DiT: checkpoint names, FlowUniPC, image preparation, guidance.

Networks other than the DiT are those of diffusers and transformers; the maps below only rename their tensors to
the names of the Wan checkpoints and back.
"""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

LATENT_MEAN = [-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
               0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921]  # fmt: skip
LATENT_STD = [2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
              3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160]  # fmt: skip
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


class Case:
    """One golden file: `config`, `tolerance`, `weights`, `inputs`, `outputs`; weights as float32."""

    def __init__(self, path: Path):
        self.weights, self.inputs, self.outputs = {}, {}, {}
        with safe_open(path, "pt") as file:
            self.metadata = file.metadata()
            for key in file.keys():
                group, name = key.split(".", 1)
                tensor = file.get_tensor(key)
                getattr(self, group)[name] = tensor.float() if group == "weights" else tensor
        self.config = json.loads(self.metadata["config"])
        self.tolerance = float(self.metadata["tolerance"])


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return (torch.linalg.norm(ours.double() - reference.double()) / torch.linalg.norm(reference.double())).item()


# ---- networks of other libraries, under Wan's names -----------------------------------------------------------------


def vae_wan_name(key: str) -> str:
    """diffusers name → Wan name."""
    for old, new in (
        (r"^quant_conv\.", "conv1."),
        (r"^post_quant_conv\.", "conv2."),
        (r"\.conv_in\.", ".conv1."),
        (r"\.norm_out\.gamma", ".head.0.gamma"),
        (r"\.conv_out\.", ".head.2."),
        (r"\.mid_block\.resnets\.0\.", ".middle.0."),
        (r"\.mid_block\.attentions\.0\.", ".middle.1."),
        (r"\.mid_block\.resnets\.1\.", ".middle.2."),
        (r"encoder\.down_blocks\.", "encoder.downsamples."),
    ):
        key = re.sub(old, new, key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)\.", lambda m: f"upsamples.{4 * int(m[1]) + int(m[2])}.", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0\.", lambda m: f"upsamples.{4 * int(m[1]) + 3}.", key)
    if re.search(r"(samples|middle)\.\d+\.(norm[12]|conv[12]|conv_shortcut)\.", key):
        for old, new in (("norm1", "residual.0"), ("conv1", "residual.2"), ("norm2", "residual.3"),
                         ("conv2", "residual.6"), ("conv_shortcut", "shortcut")):  # fmt: skip
            key = re.sub(rf"((?:samples|middle)\.\d+)\.{old}\.", rf"\1.{new}.", key)
    return key


def umt5_wan_name(key: str) -> str:
    """transformers name → Wan name."""
    key = key.replace("shared.weight", "token_embedding.weight")
    key = key.replace("encoder.final_layer_norm.", "norm.")
    key = re.sub(r"^encoder\.block\.", "blocks.", key)
    for old, new in (
        ("layer.0.layer_norm", "norm1"),
        ("layer.0.SelfAttention.relative_attention_bias", "pos_embedding.embedding"),
        ("layer.0.SelfAttention", "attn"),
        ("layer.1.layer_norm", "norm2"),
        ("layer.1.DenseReluDense.wi_0", "ffn.gate.0"),
        ("layer.1.DenseReluDense.wi_1", "ffn.fc1"),
        ("layer.1.DenseReluDense.wo", "ffn.fc2"),
    ):
        key = key.replace(old, new)
    return key


def load_renamed(model: torch.nn.Module, wan: dict[str, Tensor], name: Callable[[str], str]) -> None:
    """Fills `model` from a Wan state dict; every tensor of both sides must be used."""
    own = {k: v for k, v in model.state_dict().items() if k != "encoder.embed_tokens.weight"}
    assert {name(k) for k in own} == set(wan), sorted({name(k) for k in own} ^ set(wan))[:8]
    model.load_state_dict({k: wan[name(k)] for k in own}, strict=False)


def clip_to_wan(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' CLIP vision state → Wan's `visual.*` tensors, without the prefix and the unused `head`."""
    state = {k.removeprefix("vision_model."): v for k, v in state.items()}
    wan = {
        "cls_embedding": state["embeddings.class_embedding"].view(1, 1, -1),
        "patch_embedding.weight": state["embeddings.patch_embedding.weight"],
        "pos_embedding": state["embeddings.position_embedding.weight"][None],
    }
    for p in ("weight", "bias"):
        wan[f"pre_norm.{p}"] = state[f"pre_layrnorm.{p}"]
        wan[f"post_norm.{p}"] = state[f"post_layernorm.{p}"]
        for i in range(len({k.split(".")[2] for k in state if k.startswith("encoder.layers.")})):
            old, new = f"encoder.layers.{i}.", f"transformer.{i}."
            wan[f"{new}attn.to_qkv.{p}"] = torch.cat([state[f"{old}self_attn.{x}_proj.{p}"] for x in "qkv"])
            wan[f"{new}attn.proj.{p}"] = state[f"{old}self_attn.out_proj.{p}"]
            for a, b in (("layer_norm1", "norm1"), ("layer_norm2", "norm2"), ("mlp.fc1", "mlp.0"), ("mlp.fc2", "mlp.2")):
                wan[f"{new}{b}.{p}"] = state[f"{old}{a}.{p}"]
    return wan


def clip_from_wan(wan: dict[str, Tensor], model: CLIPVisionModel) -> None:
    """The inverse of `clip_to_wan`, by asking it where every element of the model's own state goes."""
    own = model.state_dict()
    numbers, start = {}, 0
    for key, value in own.items():
        numbers[key] = torch.arange(start, start + value.numel()).view(value.shape)
        start += value.numel()
    flat = torch.full((start,), math.nan)
    places = clip_to_wan(numbers)
    assert set(places) == set(wan) - {"head"}, sorted(set(places) ^ set(wan))
    for key, index in places.items():
        flat[index.flatten()] = wan[key].flatten()
    model.load_state_dict({k: v if "position_ids" in k else flat[numbers[k]] for k, v in own.items()})


def build_vae(cfg: dict) -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=cfg["dim"], z_dim=cfg["z_dim"], dim_mult=cfg["dim_mult"], num_res_blocks=cfg["num_res_blocks"],
        temperal_downsample=cfg["temporal_downsample"], latents_mean=cfg["mean"], latents_std=cfg["std"],
    ).eval()  # fmt: skip


def build_umt5(cfg: dict) -> UMT5EncoderModel:
    return UMT5EncoderModel(UMT5Config(
        vocab_size=cfg["vocab"], d_model=cfg["dim"], d_kv=cfg["dim_attn"] // cfg["num_heads"], d_ff=cfg["dim_ffn"],
        num_layers=cfg["num_layers"], num_heads=cfg["num_heads"], relative_attention_num_buckets=cfg["num_buckets"],
        relative_attention_max_distance=128, feed_forward_proj="gated-gelu", dropout_rate=0.0,
    )).eval()  # fmt: skip


def build_clip(cfg: dict) -> CLIPVisionModel:
    return CLIPVisionModel(CLIPVisionConfig(
        image_size=cfg["image_size"], patch_size=cfg["patch_size"], hidden_size=cfg["dim"],
        intermediate_size=cfg["mlp_ratio"] * cfg["dim"], projection_dim=cfg["out_dim"],
        num_attention_heads=cfg["num_heads"], num_hidden_layers=cfg["num_layers"], hidden_act=cfg["activation"],
        layer_norm_eps=cfg["eps"], attn_implementation="eager",
    )).eval()  # fmt: skip


def encode_text(model: UMT5EncoderModel, ids: list[int], length: int) -> Tensor:
    """Rows of the valid tokens [n,C]; the encoder sees the padded sequence and a mask, as in Wan."""
    padded = torch.tensor([ids + [0] * (length - len(ids))])
    mask = (torch.arange(length) < len(ids)).long()[None]
    return model(input_ids=padded, attention_mask=mask).last_hidden_state[0, : len(ids)]


def encode_image(model: CLIPVisionModel, pixels: Tensor) -> Tensor:
    """Output of the last block but one, [1,1+n,C]."""
    return model(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]


def encode_video(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """[3,T,H,W] → normalised mean latents [16,F,h,w]."""
    mean, std = (torch.tensor(x).view(-1, 1, 1, 1) for x in (vae.config.latents_mean, vae.config.latents_std))
    return (vae.encode(video[None]).latent_dist.mode()[0] - mean) / std


def decode_latents(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """[16,F,h,w] → [3,T,H,W], clamped to [-1,1]."""
    mean, std = (torch.tensor(x).view(-1, 1, 1, 1) for x in (vae.config.latents_mean, vae.config.latents_std))
    return vae.decode((latents * std + mean)[None]).sample[0].clamp(-1, 1)


# ---- images ---------------------------------------------------------------------------------------------------------


def model_size(area: int, image_height: int, image_width: int) -> tuple[int, int]:
    """(H,W), multiples of 16, of about `area` pixels in the picture's aspect."""
    aspect = image_height / image_width
    sides = (math.sqrt(area * aspect), math.sqrt(area / aspect))
    return tuple(8 * round(side // 8 // 2 * 2) for side in sides)


def to_tensor(image: Image.Image) -> Tensor:
    """[3,H,W] in [-1,1]."""
    return (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 - 0.5) / 0.5


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic of [3,H,W] without antialiasing or clamping."""
    return F.interpolate(image[None], size=size, mode="bicubic", align_corners=False)[0]


def clip_pixels(image: Tensor, side: int) -> Tensor:
    """[1,3,side,side]: the whole picture squashed to a square, CLIP's normalisation."""
    mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
    return ((resize(image, (side, side)) * 0.5 + 0.5 - mean) / std)[None]


def frame_mask(frames: int, h: int, w: int) -> Tensor:
    """[4,F,h,w]: one for pixel frame 0, counted four times, zero for the others."""
    pixel = torch.zeros(frames + 3)
    pixel[:4] = 1
    return pixel.view(-1, 4).T[:, :, None, None].expand(-1, -1, h, w).clone()


# ---- sampling -------------------------------------------------------------------------------------------------------


class UniPc:
    """FlowUniPC, order 2, bh2, x0-prediction. `step` takes the velocity at the present latent."""

    def __init__(self, steps: int, shift: float):
        u = np.linspace(float(np.float32(1 - 1 / 1000)), 0, steps + 1)[:-1]
        sigmas = shift * u / (1 + (shift - 1) * u)
        self.timesteps = (sigmas * 1000).astype(np.int64).tolist()
        self.sigmas = [float(s) for s in sigmas.astype(np.float32)] + [0.0]
        self.alphas = [1 - s for s in self.sigmas]
        self.lambdas = [math.log(a) - math.log(s) if s else math.inf for a, s in zip(self.alphas, self.sigmas)]
        self.steps, self.i = steps, 0
        self.x0: list[Tensor] = []  # x0 predictions so far
        self.last = None  # the corrected latent that the previous prediction started from

    def order(self, i: int) -> int:
        return min(2, self.steps - i, i + 1)

    def step(self, velocity: Tensor, x: Tensor) -> Tensor:
        i, s, a, l = self.i, self.sigmas, self.alphas, self.lambdas
        self.x0.append(x - s[i] * velocity)
        m = self.x0
        if i > 0:
            x = self.correct(i)
        self.last = x
        phi = math.expm1(l[i] - l[i + 1])
        out = s[i + 1] / s[i] * x - a[i + 1] * phi * m[i]
        if self.order(i) == 2:
            r = (l[i - 1] - l[i]) / (l[i + 1] - l[i])
            out = out - a[i + 1] * phi * 0.5 * (m[i - 1] - m[i]) / r
        self.i += 1
        return out

    def correct(self, i: int) -> Tensor:
        s, a, l, m = self.sigmas, self.alphas, self.lambdas, self.x0
        hh = l[i] - l[i - 1]
        phi = math.expm1(-hh)
        change = m[i] - m[i - 1]
        if self.order(i - 1) == 1:
            update = 0.5 * change
        else:
            r = (l[i - 2] - l[i - 1]) / hh
            k1 = phi / -hh - 1
            k2 = k1 / -hh - 0.5
            b1, b2 = k1 / phi, 2 * k2 / phi
            rho = (b1 - b2) / (1 - r)
            update = rho * (m[i - 2] - m[i - 1]) / r + (b1 - rho) * change
        return s[i] / s[i - 1] * self.last - a[i] * phi * (m[i - 1] + update)


def sample(
    forward: Callable[[Tensor, int, str, str], Tensor],
    noise: Tensor,
    *,
    steps: int,
    shift: float,
    guidance_scale: float,
    pose_guidance_scale: float,
    interval: tuple[float, float],
) -> dict[str, list]:
    """The sampling loop; `forward(latents, t, text, pose)` with "+" or "-" for text and pose."""
    scheduler, x = UniPc(steps, shift), noise
    trace = {"velocity": [], "latents": [], "branches": [], "timesteps": scheduler.timesteps, "sigmas": scheduler.sigmas}
    for i, t in enumerate(scheduler.timesteps):
        c = forward(x, t, "+", "+")
        branches = [c, forward(x, t, "-", "+")]
        v = branches[1] + guidance_scale * (c - branches[1])
        if interval[0] < i / steps < interval[1]:
            branches.append(forward(x, t, "+", "-"))
            v = v + pose_guidance_scale * (c - branches[2])
        x = scheduler.step(v, x)
        trace["velocity"].append(v)
        trace["latents"].append(x)
        trace["branches"].append(branches)
    return trace
