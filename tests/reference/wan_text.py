"""Prompt cleaning and tokenising as Wan 2.1 does it, on ftfy and transformers."""

import html
import re
from pathlib import Path

import ftfy
from transformers import PreTrainedTokenizerFast

TEXT_LEN = 512

# SteadyDancer's default negative prompt for its i2v task: data, word for word.
DEFAULT_NEGATIVE_PROMPT = (
    "镜头晃动，色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，"
    "手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)


def clean(prompt: str) -> str:
    """ftfy, HTML entities undone twice, ends stripped, every run of whitespace one space."""
    text = ftfy.fix_text(prompt)
    text = html.unescape(html.unescape(text)).strip()
    return re.sub(r"\s+", " ", text).strip()


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """A `tokenizer.json`, run by the file's own normaliser, pre-tokeniser and post-processor."""
    return PreTrainedTokenizerFast(
        tokenizer_file=str(path), pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def encode(tokenizer: PreTrainedTokenizerFast, cleaned: str) -> list[int]:
    """Ids of the valid tokens, `</s>` last: padded and truncated to 512 as Wan does, then cut back."""
    batch = tokenizer(
        [cleaned],
        padding="max_length",
        truncation=True,
        max_length=TEXT_LEN,
        add_special_tokens=True,
    )
    ids, mask = batch["input_ids"][0], batch["attention_mask"][0]
    assert len(ids) == TEXT_LEN
    n = sum(mask)
    assert mask[:n] == [1] * n and set(ids[n:]) <= {0}, "padding is not a tail of zeros"
    return ids[:n]
