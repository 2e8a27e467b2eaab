"""A small CLIP-style byte-level BPE: trained here, read by transformers' `CLIPTokenizer` and by open_clip.

CLIP's own vocabulary has 49,408 entries, more weights than the rest of a small encoder. The layout is CLIP's
(lower case, end-of-word suffix `</w>`, every byte alone and with the suffix, so that any text tokenises) with
two choices for open_clip's pooling, which reads the text at the highest id of a row: the end token has the
highest id of the vocabulary, and padding has id 0 as in open_clip's own tokenizer.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import regex
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as Steps
from tokenizers.trainers import BpeTrainer

PAD, START, END = "<|pad|>", "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # how CLIP splits text before merging


@dataclass(frozen=True)
class Vocabulary:
    """tokens: in order of their ids; merges: pairs in order of priority."""

    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]


def count_pieces(texts: Iterable[str]) -> Counter[str]:
    """How often each piece (word, digit, punctuation) stands in the texts, normalised as CLIP does."""
    return Counter(
        piece for text in texts for piece in regex.findall(PIECES, unicodedata.normalize("NFC", text).lower())
    )


def train_vocabulary(pieces: Counter[str], size: int) -> Vocabulary:
    """Learn merges from counted pieces; the vocabulary has at most `size` tokens.

    Three special tokens and 512 byte tokens are always there, so `size` must be at least 515.
    """
    alphabet = sorted(ByteLevel.alphabet())
    fixed = [PAD, *alphabet, *(byte + END_OF_WORD for byte in alphabet)]
    if size < len(fixed) + 2:
        raise ValueError(f"size {size} is below the {len(fixed) + 2} tokens that are always there")
    merges = _learn_merges(pieces, size)[: size - len(fixed) - 2]
    tokens = [*fixed, *dict.fromkeys(left + right for left, right in merges), START, END]
    return Vocabulary(tuple(tokens), tuple(merges))


def _learn_merges(pieces: Counter[str], count: int) -> list[tuple[str, str]]:
    tokenizer = Tokenizer(BPE(end_of_word_suffix=END_OF_WORD))
    tokenizer.pre_tokenizer = Steps(
        [Split(Regex(PIECES), "removed", invert=True), ByteLevel(add_prefix_space=False)]
    )
    trainer = BpeTrainer(
        vocab_size=count + 512, end_of_word_suffix=END_OF_WORD, show_progress=False, min_frequency=1
    )
    # a line of at most 1,000 repeats a piece keeps frequencies' order without a huge corpus
    lines = (" ".join([piece] * min(n, 1000)) for piece, n in sorted(pieces.items()))
    tokenizer.train_from_iterator(lines, trainer)
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def save_vocabulary(folder: Path, vocabulary: Vocabulary, context_length: int) -> None:
    """Write the files that `CLIPTokenizer` and open_clip's `local-dir:` read into `folder`."""
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": context_length,
        "bos_token": START,
        "eos_token": END,
        "pad_token": PAD,
        "unk_token": END,
        "split_special_tokens": True,  # the text "<|endoftext|>" in a caption is text, it ends nothing
    }
    merges = ["#version: 0.2", *(" ".join(pair) for pair in vocabulary.merges)]
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
