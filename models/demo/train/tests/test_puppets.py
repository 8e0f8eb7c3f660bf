"""Run in models/demo/train: python -m unittest discover -s tests"""

import hashlib
import json
import math
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from puppets import motion, skeleton  # noqa: E402
from puppets.alignment import align  # noqa: E402
from puppets.draw import Camera, draw  # noqa: E402
from puppets.keypoints import HANDS, keypoints, points, write_json  # noqa: E402
from puppets.look import COLOURS, prompt, proportions, sample_look  # noqa: E402
from puppets.pairs import Actor, _faces, _neck, _place, sample_pair, split_of  # noqa: E402
from puppets.preview import row  # noqa: E402
from puppets.write import write_set  # noqa: E402

STEP = 1 / 60


def dancer(seed, frames=180, fps=60.0):
    look = sample_look(seed)
    body = proportions(look)
    dance = motion.sample_motion(seed, body, frames, fps)
    return look, body, dance, skeleton.solve(body, dance.channels, dance.pelvis)


class Looks(unittest.TestCase):
    def test_a_look_is_plain_data_and_its_seed_alone_makes_it(self):
        for seed in range(40):
            look = sample_look(seed)
            self.assertEqual(json.loads(json.dumps(look)), sample_look(seed))
        self.assertNotEqual(sample_look(1), sample_look(2))

    def test_prompts_name_what_is_worn(self):
        for seed in range(60):
            look = sample_look(seed)
            text = prompt(look, "jumping")
            for word in (look["top"], look["build"], look["skin"], look["shoe"], "jumping", look["backdrop"]["words"]):
                self.assertIn(word, text)
            if look["outfit"] != "dress":
                self.assertIn(look["bottom"], text)
            self.assertIn(look["top"], COLOURS)

    def test_a_standing_puppet_is_about_one_unit_high(self):
        for seed in range(40):
            p = proportions(sample_look(seed))
            height = p.ankle + sum(p.leg) + p.belly + p.chest + p.neck + 2 * p.head[1]
            self.assertAlmostEqual(height, 1.0, delta=0.03)


class Motions(unittest.TestCase):
    def test_bones_keep_their_length(self):
        for seed in range(12):
            _, p, _, j = dancer(seed)
            for i in (0, 1):
                bones = [
                    (j.shoulder[i], j.elbow[i], p.arm[0]),
                    (j.elbow[i], j.hand[i][:, 0], p.arm[1]),
                    (j.hip[i], j.knee[i], p.leg[0]),
                    (j.knee[i], j.ankle[i], p.leg[1]),
                ]
                bones += [(j.neck, j.shoulder[i], p.shoulder), (j.pelvis, j.hip[i], p.hip), (j.waist, j.neck, p.chest)]
                for a, b, length in bones:
                    np.testing.assert_allclose(np.linalg.norm(b - a, axis=1), length, atol=1e-9)
                fingers = np.linalg.norm(np.diff(j.hand[i], axis=1), axis=2)
                for f in range(5):
                    own = fingers[:, 1 + 4 * f : 4 + 4 * f]
                    np.testing.assert_allclose(own, own[:1].repeat(len(own), 0), atol=1e-9)

    def test_angles_keep_to_their_limits(self):
        for seed in range(30):
            _, _, dance, _ = dancer(seed)
            for name, limit in skeleton.LIMITS.items():
                if limit:
                    values = dance.channels[:, skeleton.INDEX[name]]
                    self.assertTrue(limit[0] <= values.min() and values.max() <= limit[1], f"{name} of {seed}")

    def test_nothing_jumps(self):
        # Standing heights a second.
        fastest = {"body": 0.0, "limb": 0.0, "hand": 0.0}
        for seed in range(60):
            _, _, _, j = dancer(seed, 300)
            groups = {
                "body": [j.pelvis, j.neck, j.skull],
                "limb": [*j.elbow, *j.knee, *j.ankle],
                "hand": [h[:, 12] for h in j.hand],
            }
            for name, tracks in groups.items():
                speed = max(np.linalg.norm(np.diff(track, axis=0), axis=1).max() / STEP for track in tracks)
                fastest[name] = max(fastest[name], speed)
        self.assertLess(fastest["body"], 2.5)
        self.assertLess(fastest["limb"], 6.0)
        self.assertLess(fastest["hand"], 9.0)

    def test_a_dance_starts_at_rest_and_then_moves(self):
        for seed in range(20):
            _, _, _, j = dancer(seed)
            speed = np.linalg.norm(np.diff(j.hand[0][:, 0], axis=0), axis=1) / STEP
            self.assertLess(speed[0], 0.25)
            self.assertGreater(max(speed.max(), np.linalg.norm(np.diff(j.hand[1][:, 0], axis=0), axis=1).max() / STEP), 0.3)

    def test_any_frame_rate_samples_the_same_dance(self):
        body = proportions(sample_look(5))
        fast, slow = motion.sample_motion(5, body, 61, 60.0), motion.sample_motion(5, body, 16, 15.0)
        np.testing.assert_allclose(fast.channels[::4], slow.channels, atol=1e-9)

    def test_planted_feet_stay_on_the_floor(self):
        slips = []
        for seed in range(30):
            _, body, dance, j = dancer(seed)
            for i in (0, 1):
                low = np.diff(j.ankle[i], axis=0)[(j.ankle[i][1:, 1] < body.ankle + 0.004)]
                slips.append(np.linalg.norm(low[:, [0, 2]], axis=1).mean() / STEP if len(low) else 0.0)
                self.assertGreater(j.ankle[i][:, 1].min(), body.ankle - 0.01)
        self.assertLess(np.median(slips), 0.08)

    def test_turns_show_the_back(self):
        backs = sum((dancer(seed)[3].chest_frame[:, 2, 2] < -0.7).any() for seed in range(40))
        self.assertGreater(backs, 3)


class Pictures(unittest.TestCase):
    def test_markers_are_found_at_the_keypoints(self):
        worst = 0.0
        for seed in (3, 8):
            look, _, dance, j = dancer(seed)
            look["light"]["tint"] = [1.0, 1.0, 1.0]
            camera, size = Camera((103.7, 261.3), 203.4, 7.0), (208, 288)
            world = points(j, _faces(dance.channels))
            flat = keypoints(j, _faces(dance.channels), camera, look)
            backdrop = np.full((size[1], size[0], 3), 90, np.uint8)
            for t, k in zip(
                (10, 60, 100, 140) * 8,
                (0, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 22, 31, 68, 76, 95, 99, 103, 111, 116, 120, 132),
            ):
                with_, _ = draw(look, j, t, camera, size, backdrop, markers=[(world[t, k], (255, 0, 255))])
                without, _ = draw(look, j, t, camera, size, backdrop)
                purple = lambda image: np.minimum(image[..., 0], image[..., 2]).astype(float) - image[..., 1]
                weight = np.clip(purple(with_) - np.maximum(purple(without), 0) - 60, 0, None)
                y, x = np.mgrid[0 : size[1], 0 : size[0]] + 0.5
                found = np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()
                worst = max(worst, float(np.abs(found - flat[t, k, :2]).max()))
        self.assertLess(worst, 0.5)

    def test_the_mask_covers_the_figure_and_nothing_else(self):
        for seed in range(8):
            pair = sample_pair(seed, frames=9)
            picture, mask = pair.truth.frame(8)
            k = pair.truth.keypoints()[8]
            inside = (k[:17, 2] > 0.35) & (k[:17, :2] > 1).all(1) & (k[:17, :2] < np.array(pair.truth.size) - 1).all(1)
            for x, y, _ in k[:17][inside]:
                self.assertGreater(mask[int(y), int(x)], 0)
            brighter = picture.astype(int) - pair.truth.backdrop > 2
            self.assertFalse((brighter.any(-1) & (mask == 0)).any(), "only a shadow may fall outside of the figure")
            self.assertTrue(0.02 < (mask > 127).mean() < 0.6)

    def test_hidden_joints_score_low(self):
        look = sample_look(3)
        body = proportions(look)
        rest = motion.rest_pose(3, body)
        channels = rest.channels.repeat(3, 0)
        channels[:, skeleton.INDEX["yaw"]] = (0, 90, 180)
        for name in ("head_yaw", "spine_yaw"):
            channels[:, skeleton.INDEX[name]] = 0
        j = skeleton.solve(body, channels, rest.pelvis.repeat(3, 0))
        front, side, back = keypoints(j, _faces(channels), Camera((100, 250), 200), look)[..., 2]
        self.assertGreater(front[[0, 1, 2, 5, 6, 11, 12, 15, 16]].min(), 0.35)
        # Turned left, the puppet's right side faces the viewer.
        self.assertLess(max(side[1], side[3]), 0.35)
        self.assertTrue(0.35 < side[5] < 0.6, "a hidden shoulder is inferred, not seen")
        self.assertGreater(min(side[2], side[4], side[6]), 0.35)
        self.assertLess(back[:3].max(), 0.35)
        self.assertLess(back[23:91].max(), 0.35)
        self.assertGreater(back[[5, 6, 11, 12]].min(), 0.35)

    def test_the_same_seed_draws_the_same_bytes(self):
        digest = lambda seed: hashlib.sha256(
            row(sample_pair(seed, "held-out", driving_size=(208, 288), frames=9)).tobytes()
        ).hexdigest()
        self.assertEqual(digest(4), digest(4))
        self.assertNotEqual(digest(4), digest(5))


class Pairs(unittest.TestCase):
    def test_splits_share_no_look_and_no_motion(self):
        import puppets.pairs as module

        seen, plain = {"train": set(), "held-out": set()}, module._seed

        def record(rng, split):
            seed = plain(rng, split)
            seen[split].add(seed)
            return seed

        module._seed = record
        try:
            for split in seen:
                for seed in range(40):
                    sample_pair(seed, split, frames=2)
        finally:
            module._seed = plain
        self.assertFalse(seen["train"] & seen["held-out"])
        for split, seeds in seen.items():
            self.assertGreater(len(seeds), 150)
            self.assertEqual({split_of(seed) for seed in seeds}, {split})

    def test_the_truth_begins_with_the_reference_and_becomes_the_pose(self):
        for seed in range(5):
            pair = sample_pair(seed, frames=9, settle=4)
            np.testing.assert_array_equal(pair.truth.frame(0)[0], pair.reference.frame(0)[0])
            np.testing.assert_allclose(pair.truth.keypoints()[4:], pair.pose.keypoints()[4:], atol=1e-9)
            self.assertGreater(np.abs(pair.truth.keypoints()[0] - pair.pose.keypoints()[0]).max(), 0.5)

    def test_the_neck_moves_as_the_alignment_says(self):
        pair = sample_pair(7, frames=17, driving_size=(320, 240))
        neck = lambda k: (k[:, 5, :2] + k[:, 6, :2]) / 2
        driven, own = neck(pair.driving.keypoints()) / 240, neck(pair.pose.keypoints()) / 288
        np.testing.assert_allclose(own - own[0], driven - driven[0], atol=1e-9)
        np.testing.assert_allclose(own[0] * 288, neck(pair.reference.keypoints())[0], atol=1e-6)

    def test_the_truth_is_the_published_alignment_when_only_size_differs(self):
        look = sample_look(12)
        body = proportions(look)
        dance = motion.sample_motion(12, body, 17)
        driven = skeleton.solve(body, dance.channels, dance.pelvis)
        big, small = Camera((120, 290), 250, 6.0), Camera((101, 230), 150, 6.0)
        far = Actor(look, driven, _faces(dance.channels), big, (240, 320))
        start = _neck(driven, small)[0]
        move = (_neck(driven, big) - _neck(driven, big)[0]) / 320 * 288
        near = Actor(
            look, _place(body, dance.channels, dance.pelvis[:, 2], small, start + move), _faces(dance.channels), small, (208, 288)
        )
        aligned = align(far.keypoints(), (240, 320), near.keypoints()[0], (208, 288))
        body_rows = [*range(17), *range(HANDS[0].start, HANDS[1].stop)]
        np.testing.assert_allclose(aligned[:, body_rows, :2], near.keypoints()[:, body_rows, :2], atol=1e-6)

    def test_keypoint_files_follow_the_documented_format(self):
        pair = sample_pair(2, frames=5)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pose.json"
            write_json(path, pair.driving.keypoints(), pair.driving.size, 16, pair.reference.keypoints()[0], pair.reference.size)
            clip = json.loads(path.read_text(), parse_constant=lambda name: self.fail(f"{name} is not allowed"))
        self.assertEqual(set(clip), {"format", "version", "width", "height", "fps", "reference", "frames"})
        self.assertEqual((clip["format"], clip["version"], clip["fps"]), ("steadydance-keypoints", 1, 16))
        self.assertEqual([clip["width"], clip["height"]], list(pair.driving.size))
        self.assertEqual(set(clip["reference"]), {"width", "height", "people"})
        self.assertEqual(len(clip["frames"]), 5)
        for picture in [clip["reference"], *clip["frames"]]:
            self.assertEqual(len(picture["people"]), 1)
            rows = picture["people"][0]["keypoints"]
            self.assertEqual([len(rows), {len(r) for r in rows}], [133, {3}])
            self.assertTrue(all(math.isfinite(v) for r in rows for v in r))
            self.assertTrue(all(0 <= r[2] <= 1 for r in rows))

    @unittest.skipUnless(shutil.which("ffmpeg"), "a set is videos")
    def test_a_set_is_compact_and_says_what_it_is(self):
        with tempfile.TemporaryDirectory() as folder:
            write_set(Path(folder), 2, 4, "held-out", (96, 128), 5)
            head = json.loads((Path(folder) / "set.json").read_text())
            self.assertEqual([row["name"] for row in head["pairs"]], ["0004", "0005"])
            self.assertEqual((head["width"], head["height"], head["frames"], head["settle"]), (96, 128, 5, 4))
            self.assertGreater(head["truth_figure_psnr_db"]["min"], 35)
            files = {f.name for f in (Path(folder) / "0004").iterdir()}
            clip = json.loads((Path(folder) / "0004" / "pose.json").read_text())
        self.assertEqual(
            files, {"reference.png", "driving.mp4", "truth.mp4", "mask.mp4", "pose.json", "driving.json", "prompt.txt"}
        )
        points = np.array(clip["frames"][0]["people"][0]["keypoints"])
        exact = sample_pair(4, "held-out", (96, 128), 5).pose.keypoints()[0]
        drawn = [*range(23), *range(91, 133)]
        np.testing.assert_allclose(points[drawn], exact[drawn], atol=0.051)


if __name__ == "__main__":
    unittest.main()
