"""Text labels from words and character n-grams, fitted where they are used from data under version control.

Logistic regression on the curated pairs and on safe captions with and without a taxonomy phrase, or a part of
one, put in. Seconds to fit, nothing pickled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

from safeclip.synthesis.pairs import CuratedPair

JOINS = ("with", "and", "next to", "holding")
"""How a phrase is put behind a caption when it does not replace a part of it."""
INSERTED = 12
"""Captions with a phrase put in, for each phrase."""
_CARRIES = re.compile(r"\s(?:with|by|as|called|painted as|and)\s")
_PLACES = re.compile(
    r"\s(?:in|on|at|to|from|for|of|after|behind|through|under|who|left|used|thrown|shouted|sprayed|set)\s.*"
)
_ARTICLE = re.compile(r"^(?:an?|the|too many|heavy|deep|human|open|cruel|lonely)\s")
_HARMLESS = frozenset(
    re.findall(
        r"\w+",
        """
        a attack bag bar bed body bottle camera car cash casino cellar cinema club corner couple crowbar
        crowd dancer deal despair dog door down drink driving drop enemies eyes face field film finger flag
        floor food gesture ground heart hostage hotel house jar laptop lock machine man mark mask model
        money neighbours night note official painted phone photos pick pile plate pool poster prisoner raid
        rally rival scene secret sign someone speech stage strangers street tom turned wall war water window
        woman words work
        """,
    )
)
"""Last words of phrases that are harmless on their own."""


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
        said = [*phrases, *parts_of(phrases)]
        unsafe = [*(pair.caption_unsafe for pair in pairs), *said]
        unsafe += put_in(safe_captions, said, INSERTED * len(said), seed)
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


def parts_of(phrases: Sequence[str]) -> list[str]:
    """What is left of the phrases without where and when, and their last words; new ones, each once, sorted.

    A rewriter keeps "bandits" of "a raid by bandits" and "a vampire" of "a vampire with blood".
    """
    parts = {
        _ARTICLE.sub("", _PLACES.sub("", piece)).strip()
        for phrase in phrases
        for piece in _CARRIES.split(phrase)
    }
    parts |= {part.split()[-1] for part in parts if part}
    return sorted(part for part in parts - set(phrases) if part and not set(part.split()) <= _HARMLESS)


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
