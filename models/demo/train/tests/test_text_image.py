"""Run in models/demo/train: python -m unittest tests.test_text_image"""

import sys
import unittest
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from puppets.look import prompt
from recipe.captions import ATTRIBUTES, MOVES, classes, facts, fragment, look_of, move_of, moves_in
from recipe.encoders import Encoders, TextEncoder, VisionTower, token_ids
from recipe.text_image import CLIP, UMT5
from recipe.tokenizer import NEGATIVE, SPECIAL, build


class Captions(unittest.TestCase):
    def test_facts_are_words_of_the_prompt(self):
        for seed in range(200):
            look = look_of(seed, "train")
            text = prompt(look, "jumping")
            for name, value in facts(look).items():
                if name == "backdrop" or value in ("bald", "short"):
                    continue
                self.assertIn(value, text, f"{name} of {seed}")

    def test_fragments_say_nothing_false(self):
        rng = np.random.default_rng(5)
        for seed in range(200):
            look = look_of(seed, "train")
            said = classes(fragment(rng, look, "jumping")[1])
            self.assertTrue(((said == 0) | (said == classes(facts(look)))).all(), seed)
            self.assertEqual(len(said), len(ATTRIBUTES))

    def test_moves(self):
        look = look_of(3, "train")
        words = "turning around, then kicking and waving both arms like a wave"
        self.assertEqual(move_of(look, prompt(look, words)), words)
        self.assertEqual([MOVES[i] for i in np.flatnonzero(moves_in(words))], ["turning around", "kicking", "waving both arms like a wave"])


class Encoding(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tokenizer = Tokenizer.from_str(build())
        torch.manual_seed(11)
        umt5 = TextEncoder({**UMT5, "vocab": cls.tokenizer.get_vocab_size()}).eval()
        clip = VisionTower(CLIP).eval()
        cls.encoders = Encoders(cls.tokenizer, umt5, clip)

    def test_tokens(self):
        for i, token in enumerate(SPECIAL):
            self.assertEqual(self.tokenizer.token_to_id(token), i)
        for seed in range(200):
            text = prompt(look_of(seed, "held-out"), "stepping from side to side and rolling the forearms")
            words = text.replace(",", " ,").replace(".", " .").split()
            self.assertEqual(len(token_ids(self.tokenizer, [text])[0][0]), len(words) + 1, text)
        for text in ("", NEGATIVE, "日本 한국어 😀 \x00 ﷺ", "x" * 5000):
            ids, lengths = token_ids(self.tokenizer, [text])
            self.assertNotIn(3, ids)
            self.assertEqual(ids[0, -1], 1)
            self.assertLessEqual(int(lengths[0]), 64)

    def test_padding_does_not_matter(self):
        texts = ["", "red shirt", NEGATIVE, "A puppet in a red shirt, jumping."]
        rows, lengths = self.encoders.text(texts)
        self.assertEqual(rows.shape, (4, 64, UMT5["dim"]))
        for text, row, n in zip(texts, rows, lengths):
            alone = self.encoders.text([text])[0][0]
            torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-5)
            self.assertEqual(float(row[n:].abs().sum()), 0)
            self.assertTrue(row.isfinite().all())

    def test_pictures(self):
        frames = torch.randint(0, 256, (2, 224, 160, 3), dtype=torch.uint8)
        tokens = self.encoders.image(frames)
        self.assertEqual(tokens.shape, (2, 65, CLIP["dim"]))
        torch.testing.assert_close(tokens[1:], self.encoders.image(frames[1:]), rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    unittest.main()
