"""Our engine beside stable-diffusion.cpp on this machine's processor: whole forwards of Wan 2.1 t2v 1.3B, in turns.

python sdcpp.py PROGRAM SD_CLI [--rounds 2] [--threads 2] [--folder target/peers] [SIZE ...]

PROGRAM is a `steadydance` and SD_CLI a `sd-cli`, both built for release. Weights are random and written once to the folder (3 GB). Without a
text encoder the peer attends to 256 text tokens and we to 512, so it has a little less to do.
"""

import argparse
import importlib.util
import json
import re
import statistics
import subprocess
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

# Size: our case.
SIZES = {"480x272x17": "dit-1.3b-480x272x17-bf16", "832x480x5": "dit-1.3b-832x480x5-bf16"}
FORMS = (["--type", "bf16"], ["--type", "bf16", "--diffusion-fa"])


def transformer(path, layers=30, dim=1536, ffn=8960):
    """Wan 2.1 t2v 1.3B under the names of its release."""
    w = {}

    def linear(name, out, inner):
        w[f"{name}.weight"] = (torch.randn(out, inner) / inner**0.5).bfloat16()
        w[f"{name}.bias"] = torch.zeros(out, dtype=torch.bfloat16)

    w["patch_embedding.weight"], w["patch_embedding.bias"] = 0.1 * torch.randn(dim, 16, 1, 2, 2), torch.zeros(dim)
    linear("text_embedding.0", dim, 4096), linear("text_embedding.2", dim, dim)
    linear("time_embedding.0", dim, 256), linear("time_embedding.2", dim, dim), linear("time_projection.1", 6 * dim, dim)
    for i in range(layers):
        block = f"blocks.{i}"
        w[f"{block}.modulation"] = 0.02 * torch.randn(1, 6, dim)
        for kind in ("self_attn", "cross_attn"):
            for part in "qkvo":
                linear(f"{block}.{kind}.{part}", dim, dim)
            for part in "qk":
                w[f"{block}.{kind}.norm_{part}.weight"] = torch.ones(dim)
        w[f"{block}.norm3.weight"], w[f"{block}.norm3.bias"] = torch.ones(dim), torch.zeros(dim)
        linear(f"{block}.ffn.0", ffn, dim), linear(f"{block}.ffn.2", dim, ffn)
    linear("head.head", 64, dim)
    w["head.modulation"] = 0.02 * torch.randn(1, 2, dim)
    save_file(w, path)


def autoencoder(path):
    """Wan's VAE, which the peer wants to have before it begins."""
    from diffusers import AutoencoderKLWan

    parts = Path(__file__).parents[2] / "tests/reference/wan_parts.py"
    spec = importlib.util.spec_from_file_location("wan_parts", parts)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    save_file({module.vae_wan_name(k): v.half().contiguous() for k, v in AutoencoderKLWan().state_dict().items()}, path)


def theirs(a, size, form):
    """Seconds of a sampler step: the second of two, as it reports them; it is stopped before the VAE."""
    width, height, frames = size.split("x")
    line = [a.sd_cli, "-M", "vid_gen", "--diffusion-model", str(a.folder / "wan-1.3b.safetensors"), "--vae", str(a.folder / "vae.safetensors")]
    line += ["-p", "", "--cfg-scale", "1", "--sampling-method", "euler", "--flow-shift", "3", "--steps", "2", "-t", str(a.threads)]
    line += ["-W", width, "-H", height, "--video-frames", frames, "-o", str(a.folder / "out.avi"), *form]
    run = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text, found = b"", None
    try:
        while found is None:
            chunk = run.stdout.read1(4096)
            if not chunk:
                raise SystemExit(f"{a.sd_cli} ended without two steps:\n{text.decode(errors='replace')[-2000:]}")
            text += chunk
            found = re.search(rb"2/2 - ([\d.]+)(s/it|it/s)", text)
    finally:
        run.kill()
        run.wait()
    value = float(found[1])
    return value if found[2] == b"s/it" else 1 / value


def ours(a, case):
    line = [a.program, "bench", "--case", case, "--runs", "1", "--seconds", "0", "--threads", str(a.threads), "--json", "-"]
    report = json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    return report["cases"][0]["time"]["median"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("sd_cli")
    parser.add_argument("sizes", nargs="*", default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("target/peers"))
    a = parser.parse_intermixed_args()
    a.folder.mkdir(parents=True, exist_ok=True)
    for name, write in (("wan-1.3b", transformer), ("vae", autoencoder)):
        path = a.folder / f"{name}.safetensors"
        if not path.exists():
            torch.manual_seed(1)
            write(path)
    rows = []
    print(f"{a.threads} threads, medians of {a.rounds} rounds in turns\n| size | ours, bf16 | stable-diffusion.cpp | | theirs / ours |\n|---|---|---|---|---|")
    for size in a.sizes:
        mine, peers = [], {" ".join(form[1:]): [] for form in FORMS}
        for _ in range(a.rounds):
            mine.append(ours(a, SIZES[size]))
            for form in FORMS:
                peers[" ".join(form[1:])].append(theirs(a, size, form))
        for form, seconds in peers.items():
            m, t = statistics.median(mine), statistics.median(seconds)
            rows.append({"size": size, "form": form, "ours": mine, "theirs": seconds, "ratio": t / m})
            print(f"| {size} | {m:.1f} s | {t:.1f} s | {form} | {t / m:.2f} |", flush=True)
    (a.folder / "sdcpp.json").write_text(json.dumps({"threads": a.threads, "rows": rows, "time": time.strftime("%F")}, indent=1))


if __name__ == "__main__":
    main()
