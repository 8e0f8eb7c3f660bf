"""Writes resize.safetensors: one small picture, resized by Pillow and by OpenCV.

    python -m venv /tmp/venv && /tmp/venv/bin/pip install pillow==11.3.0 opencv-python-headless==5.0.0.93 numpy safetensors
    /tmp/venv/bin/python tests/reference/media/make_resize.py

Names: `image` is the source (HWC uint8); `<kind>_<width>x<height>` are its resizes.
"""
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from safetensors.numpy import save_file

WIDTH, HEIGHT = 62, 44
# Growing, shrinking, one side each way, one side unchanged, exact halves, strong shrinking.
SIZES = [(93, 71), (37, 29), (80, 20), (30, 60), (62, 30), (45, 44), (31, 22), (7, 5)]

rng = np.random.default_rng(7)
y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
smooth = np.stack([x * 4, y * 5, 255 - x * 2 - y * 2], axis=-1).clip(0, 255)
noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3))
edges = np.where(((x // 9 + y // 7) % 2)[..., None] == 0, 255, 0)
image = np.where((x < 20)[..., None], smooth, np.where((x < 42)[..., None], noise, edges)).astype(np.uint8)

tensors = {"image": image}
for w, h in SIZES:
    tensors[f"pil_{w}x{h}"] = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BICUBIC))
    for kind, flag in (("linear", cv2.INTER_LINEAR), ("cubic", cv2.INTER_CUBIC), ("area", cv2.INTER_AREA)):
        tensors[f"{kind}_{w}x{h}"] = cv2.resize(image, (w, h), interpolation=flag)
save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, Path(__file__).parent / "resize.safetensors")
