"""The networks' PyTorch against independent descriptions: python -m unittest tests.test_recipe"""

import sys
import unittest
from pathlib import Path

import numpy as np
import torch

REFERENCE = Path(__file__).resolve().parents[4] / "tests" / "reference"
sys.path.insert(0, str(REFERENCE))

from recipe import dit, drawn, vae  # noqa: E402


class TestDit(unittest.TestCase):
    def test_a_batch_equals_the_reference_clip_by_clip(self):
        import steadydancer_dit as reference

        torch.manual_seed(0)
        ours = dit.Dit()
        with torch.no_grad():
            for p in ours.parameters():
                p.add_(0.02 * torch.randn(p.shape))
        theirs = reference.SteadyDancerDit(reference.DitConfig(**dit.CONFIG))
        theirs.load_state_dict(ours.state_dict())
        draw, (t, h, w) = torch.randn, (3, 8, 6)
        given = {
            "latents": draw(2, 16, t, h, w), "t": torch.tensor([937.0, 20.0]), "text": draw(2, 20, 96), "y": draw(2, 20, t, h, w),
            "pose": draw(2, 16, t, h, w), "ref": draw(2, 36, 1, h, w), "pose_ref": draw(2, 16, 1, h, w),
            "image": draw(2, 17, 96), "pose_image": draw(2, 17, 96),
        }  # fmt: skip
        with torch.no_grad():
            out = ours(**given)
            for i in range(2):
                g = {k: v[i] for k, v in given.items()}
                one = theirs(g["latents"], float(g["t"]), g["text"], g["y"], g["pose"], g["ref"], g["pose_ref"], g["image"][None], g["pose_image"][None])  # fmt: skip
                self.assertLess(((out[i] - one).norm() / one.norm()).item(), 2e-6)


class TestVae(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(1)
        self.net = vae.Vae()
        with torch.no_grad():
            for p in self.net.parameters():
                p.add_(0.05 * torch.randn(p.shape))

    def test_no_frame_sees_a_later_one(self):
        x = torch.randn(1, 3, 9, 16, 24)
        with torch.no_grad():
            whole, early = self.net.encode(x)[0], self.net.encode(x[:, :, :5])[0]
            torch.testing.assert_close(whole[:, :, :2], early, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(self.net.decode(whole)[:, :, :5], self.net.decode(early), rtol=1e-4, atol=1e-4)

    def test_a_single_frame_is_the_first_of_a_clip(self):
        x = torch.randn(1, 3, 5, 16, 24)
        with torch.no_grad():
            torch.testing.assert_close(self.net.encode(x)[0][:, :, :1], self.net.encode(x[:, :, :1])[0], rtol=1e-4, atol=1e-4)

    def test_it_has_the_tensors_of_the_release(self):
        names = set(self.net.state_dict())
        for name in ("encoder.downsamples.0.residual.6.weight", "encoder.downsamples.5.time_conv.weight", "decoder.head.0.gamma"):
            self.assertIn(name, names)
        self.assertEqual(self.net.decoder.upsamples[2].resample[1].weight.shape, (32, 64, 3, 3))


class TestDrawing(unittest.TestCase):
    def test_the_canvas_keeps_the_aspect(self):
        self.assertEqual(drawn.canvas_size((160, 224)), (208, 288))
        self.assertEqual(drawn.canvas_size((192, 192)), (256, 256))

    def test_limbs_are_dimmed_and_joints_are_not(self):
        k = np.zeros((133, 3))
        k[5], k[6] = (60, 50, 1), (40, 50, 1)  # shoulders, and with them the neck
        body, seen, hands = drawn.to_openpose(k)
        self.assertEqual(seen.sum(), 3)
        picture = drawn.draw(body / 100, seen, hands / 100, (200, 200))
        self.assertEqual(picture[100, 90].tolist(), [0, 0, 153])  # neck to right shoulder: the palette's red, channels reversed
        self.assertEqual(picture[100, 80].tolist(), [0, 170, 255])

    def test_negative_poses_keep_the_neck(self):
        rng = np.random.default_rng(3)
        body, hands = rng.uniform(0.2, 0.8, (18, 2)), rng.uniform(0.2, 0.8, (2, 21, 2))
        out, _ = drawn.distorted(body, hands, rng)
        np.testing.assert_allclose(out[1], body[1])
        self.assertGreater(np.abs(out - body).max(), 0.01)


if __name__ == "__main__":
    unittest.main()
