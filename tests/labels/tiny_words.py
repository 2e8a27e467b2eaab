"""A tokenizer of a dozen words that can chat, for models built on the spot."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ["[PAD]", "[UNK]", "a", "man", "with", "gun", "dog", "Yes", "yes", "No", "no", "park"]
CHAT = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
CAPTIONS = ["a man with a dog", "a man with a gun", "gun", "a dog with a man with a dog in a park"]


def tokenizer_in(folder: Path) -> None:
    """Write it beside a model's weights."""
    words = Tokenizer(models.WordLevel({word: row for row, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", eos_token="[PAD]", chat_template=CHAT
    ).save_pretrained(folder)
