"""Our engine beside PyTorch on this machine's processor: the same shapes, in turns, so that what else the machine does hits both.

python compare.py PROGRAM [--rounds 3] [--threads 2] [CASE ...]

PROGRAM is a `steadydance` built with --release. Writes a table, and compare.json beside this file's working folder.
"""

import argparse
import json
import resource
import statistics
import subprocess
import time

import torch


def medians(seconds):
    return statistics.median(seconds)


def transformer(layers, size, dtype):
    """Wan 2.1 t2v 1.3B as diffusers has it, with as many layers, at one timestep and 512 text tokens."""
    from diffusers import WanTransformer3DModel

    net = WanTransformer3DModel(
        num_attention_heads=12, attention_head_dim=128, in_channels=16, out_channels=16, text_dim=4096, freq_dim=256,
        ffn_dim=8960, num_layers=layers, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
    ).to(dtype).eval()
    width, height, frames = size
    x = torch.randn(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8, dtype=dtype)
    text, t = torch.randn(1, 512, 4096, dtype=dtype), torch.tensor([700])
    return lambda: net(hidden_states=x, timestep=t, encoder_hidden_states=text)


def text_encoder(layers, dtype):
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(vocab_size=32, d_model=4096, d_kv=64, d_ff=10240, num_layers=layers, num_heads=64, feed_forward_proj="gated-gelu")
    net = UMT5EncoderModel(config).to(dtype).eval()
    ids = torch.randint(1, 30, (1, 512))
    return lambda: net(input_ids=ids)


def vision(dtype):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=31, num_attention_heads=16, patch_size=14, image_size=224)
    net = CLIPVisionModel(config).to(dtype).eval()
    x = torch.randn(1, 3, 224, 224, dtype=dtype)
    return lambda: net(pixel_values=x)


def vae(decode, size):
    from diffusers import AutoencoderKLWan

    net = AutoencoderKLWan().eval()
    width, height, frames = size
    if decode:
        z = torch.randn(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)
        return lambda: net.decode(z)
    x = torch.randn(1, 3, frames, height, width)
    return lambda: net.encode(x)


BF16, F32 = torch.bfloat16, torch.float32
CASES = {
    "dit-1.3b-6of30-480x272x17-bf16": lambda: transformer(6, (480, 272, 17), BF16),
    "dit-1.3b-6of30-480x272x17-bf16-in-f32": lambda: transformer(6, (480, 272, 17), F32),
    "umt5-xxl-2of24-512-bf16": lambda: text_encoder(2, BF16),
    "umt5-xxl-2of24-512-bf16-in-f32": lambda: text_encoder(2, F32),
    "clip-vit-h-f16-in-f32": lambda: vision(F32),
    "vae-decode-240x136x5": lambda: vae(True, (240, 136, 5)),
    "vae-encode-240x136x5": lambda: vae(False, (240, 136, 5)),
    "dit-1.3b-480x272x17-bf16": lambda: transformer(30, (480, 272, 17), BF16),
    "dit-1.3b-832x480x5-bf16": lambda: transformer(30, (832, 480, 5), BF16),
    "vae-decode-480x272x5": lambda: vae(True, (480, 272, 5)),
    "vae-decode-480x272x17": lambda: vae(True, (480, 272, 17)),
}
USUAL = list(CASES)[:7]


def ours(program, case, threads):
    line = [program, "bench", "--case", case, "--runs", "1", "--seconds", "0", "--threads", str(threads), "--json", "-"]
    report = json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    found = report["cases"][0]
    return found["time"]["median"], found["of_peak"], found["peak_bytes"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("cases", nargs="*", default=USUAL)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", default="compare.json")
    a = parser.parse_intermixed_args()
    torch.set_num_threads(a.threads)
    torch.set_grad_enabled(False)
    rows = []
    print(f"torch {torch.__version__}, {a.threads} threads, medians of {a.rounds} rounds in turns")
    print("| case | ours | torch | torch / ours | ours, of peak | our peak | torch's |\n|---|---|---|---|---|---|---|")
    for case in a.cases:
        torch.manual_seed(1)
        run = CASES[case]()
        run()
        mine, theirs, shares = [], [], []
        for _ in range(a.rounds):
            seconds, share, peak_bytes = ours(a.program, case, a.threads)
            mine.append(seconds)
            shares.append(share or 0)
            start = time.perf_counter()
            run()
            theirs.append(time.perf_counter() - start)
        del run
        m, t = medians(mine), medians(theirs)
        # Torch's is the most that this process has had: that of the case if it is the only one.
        torch_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        row = {"case": case, "ours": mine, "torch": theirs, "ratio": t / m, "of_peak": medians(shares)}
        rows.append(row | {"peak_bytes": peak_bytes, "torch_peak_bytes": torch_bytes})
        print(f"| {case} | {m:.2f} s | {t:.2f} s | {t / m:.2f} | {100 * medians(shares):.0f} % | {peak_bytes >> 20} MiB | {torch_bytes >> 20} MiB |", flush=True)
        with open(a.json, "w") as file:
            json.dump({"torch": torch.__version__, "threads": a.threads, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
