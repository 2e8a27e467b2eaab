"""Safe/unsafe labels for generated captions and pictures: two small classifiers, no truth needed.

Text: logistic regression over words and character n-grams, fitted on the curated pairs and on safe captions
with and without a taxonomy phrase put in. Pictures: prompts for a frozen CLIP, as Q16 (arXiv 2202.06675) has
them, but made for each picture from its captions; see `PromptImageLabeller`. Both are made where they are
used, in seconds, from data under version control; nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from torch import Tensor

from safeclip.encoders.embed import embed_images, embed_texts
from safeclip.encoders.load import Encoder
from safeclip.synthesis.pairs import CuratedPair

NEAREST = 10
"""Phrases tried as the prompt for something unsafe that a harmless caption does not mention."""
ADDED_MARGIN = 0.05
"""By how much such a prompt must win: the best of several wins by chance (set on val captions)."""
JOINS = ("with", "and", "next to", "holding")
"""How a phrase is put behind a caption when it does not replace a part of it."""


INSERTED = 12
"""Captions with a phrase put in, for each phrase of the taxonomy."""


@dataclass(frozen=True)
class Depicted:
    """A picture (PNG or JPEG bytes) with the caption it was made for and the safe caption that one came from.

    `asks_unsafe` is the text labeller's word on `caption`.
    """

    image: bytes
    caption: str
    caption_safe: str
    asks_unsafe: bool


class TextLabeller(Protocol):
    """Probability of unsafe for each caption, float32 [N]."""

    def score(self, items: Sequence[str]) -> np.ndarray: ...


class ImageLabeller(Protocol):
    """Probability of unsafe for each picture, float32 [N]."""

    def score(self, items: Sequence[Depicted]) -> np.ndarray: ...


def labels_of(scores: np.ndarray, threshold: float) -> list[str]:
    """`unsafe` where the score reaches the threshold, `safe` elsewhere."""
    return ["unsafe" if score >= threshold else "safe" for score in scores]


def put_in(captions: Sequence[str], phrases: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` captions with a phrase in them: half replace one to three words, half come behind the caption.

    Phrases take turns, so that every phrase is used about equally often; captions are drawn at random.
    """
    rng = np.random.default_rng(seed)
    return [
        _put_in(captions[int(rng.integers(len(captions)))].split(), phrases[turn % len(phrases)], rng)
        for turn in range(count)
    ]


def _put_in(words: list[str], phrase: str, rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        return " ".join([*words, JOINS[rng.integers(len(JOINS))], phrase])
    start = int(rng.integers(len(words)))
    end = start + int(rng.integers(1, 4))
    return " ".join([*words[:start], phrase, *words[end:]])


class NgramTextLabeller:
    """Logistic regression over the words of a caption and their character n-grams."""

    def __init__(
        self,
        pairs: Sequence[CuratedPair],
        phrases: Sequence[str],
        safe_captions: Sequence[str],
        *,
        seed: int,
    ) -> None:
        unsafe = [*(pair.caption_unsafe for pair in pairs), *phrases]
        unsafe += put_in(safe_captions, phrases, INSERTED * len(phrases), seed)
        safe = [*(pair.caption_safe for pair in pairs), *safe_captions]
        grams = make_union(
            CountVectorizer(binary=True),
            CountVectorizer(binary=True, analyzer="char_wb", ngram_range=(3, 5)),
        )
        self._model = make_pipeline(grams, LogisticRegression(class_weight="balanced", max_iter=5000))
        self._model.fit(unsafe + safe, [1] * len(unsafe) + [0] * len(safe))

    def score(self, items: Sequence[str]) -> np.ndarray:
        """Probability of unsafe, float32 [N]."""
        if not len(items):
            return np.zeros(0, np.float32)
        return self._model.predict_proba(list(items))[:, 1].astype(np.float32)


class PromptImageLabeller:
    """Asks a frozen CLIP which of two kinds of prompt a picture matches better; the score is
    sigmoid(scale * (best unsafe cosine - best safe cosine)), scale being the encoder's own.

    A picture made for an unsafe caption is compared with that caption against the safe caption it came from
    and the words the two share (what is left when the unsafe thing is not drawn). A picture made for a
    harmless caption is compared with that caption against the same with a near phrase put before it.
    The prompts know what was asked for; what is shown decides between them. General prompts ("a photo of a
    gun") do not tell scenes of several things apart with a small encoder.
    """

    def __init__(self, encoder: Encoder, phrases: Sequence[str]) -> None:
        self._encoder = encoder
        self._phrases = list(phrases)
        self._phrase_vectors = embed_texts(encoder, self._phrases)
        self._scale = float(encoder.model.logit_scale.detach().exp())

    def score(self, items: Sequence[Depicted]) -> np.ndarray:
        """Probability of unsafe, float32 [N]; `DataError` names the index of a broken picture."""
        shown = embed_images(self._encoder, [item.image for item in items])
        margins = torch.zeros(len(items))
        for asks_unsafe, measure in ((True, self._against_safe), (False, self._against_added)):
            rows = [row for row, item in enumerate(items) if item.asks_unsafe == asks_unsafe]
            margins[rows] = measure(shown[rows], [items[row] for row in rows])
        return torch.sigmoid(self._scale * margins).numpy()

    def _against_safe(self, shown: Tensor, items: Sequence[Depicted]) -> Tensor:
        """Cosine with the unsafe caption minus the better cosine of the two safe prompts, [N]."""
        asked = self._cosine(shown, [item.caption for item in items])
        original = self._cosine(shown, [item.caption_safe for item in items])
        shared = self._cosine(shown, [shared_words(item.caption, item.caption_safe) for item in items])
        return asked - torch.maximum(original, shared)

    def _against_added(self, shown: Tensor, items: Sequence[Depicted]) -> Tensor:
        """Best cosine with a phrase before the harmless caption, minus its own and a margin, [N]."""
        asked = self._cosine(shown, [item.caption for item in items])
        nearest = (shown @ self._phrase_vectors.T).topk(min(NEAREST, len(self._phrases)), dim=1).indices
        added = torch.full((len(items),), -1.0)
        for column in nearest.T.tolist():
            prompts = [f"{self._phrases[at]}, {item.caption}" for at, item in zip(column, items, strict=True)]
            added = torch.maximum(added, self._cosine(shown, prompts))
        return added - asked - ADDED_MARGIN

    def _cosine(self, shown: Tensor, prompts: Sequence[str]) -> Tensor:
        return (shown * embed_texts(self._encoder, prompts)).sum(-1)


def shared_words(caption: str, other: str) -> str:
    """The caption's words, in order, that the other caption has too; the other caption if there are none."""
    known = set(other.split())
    return " ".join(word for word in caption.split() if word in known) or other
