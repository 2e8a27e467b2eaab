"""Safe/unsafe labels for generated captions and pictures: two small classifiers behind one interface.

They label; they never see how a sample was made. Text: logistic regression over word and character n-grams,
fitted on the curated pairs and on safe captions with and without a taxonomy phrase put in. Pictures: prompts of
the kind Q16 uses (arXiv 2202.06675), here safe captions and the same captions with a taxonomy phrase put in,
embedded by a frozen CLIP; see `PromptImageLabeller`. Both are fitted where they are used, in seconds, from data
under version control; nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

from safeclip.synthesis.pairs import CuratedPair

JOINS = ("with", "and", "next to", "holding")
"""How a phrase is put behind a caption when it does not replace a part of it."""


INSERTED = 12
"""Captions with a phrase put in, for each phrase of the taxonomy."""


class TextLabeller(Protocol):
    """Probability of unsafe for each caption."""

    def score(self, items: Sequence[str]) -> np.ndarray: ...


class ImageLabeller(Protocol):
    """Probability of unsafe for each picture (PNG or JPEG bytes)."""

    def score(self, items: Sequence[bytes]) -> np.ndarray: ...


def labels_of(scores: np.ndarray, threshold: float) -> list[str]:
    """`unsafe` where the score reaches the threshold, `safe` elsewhere."""
    return ["unsafe" if score >= threshold else "safe" for score in scores]


def put_in(captions: Sequence[str], phrases: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` captions with a phrase in them: half replace one to three words, half come behind a joining word.

    Phrases take turns, so that every phrase is used about equally often; captions are drawn at random.
    """
    rng = np.random.default_rng(seed)
    return [
        _put_in(captions[rng.integers(len(captions))].split(), phrases[turn % len(phrases)], rng)
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
