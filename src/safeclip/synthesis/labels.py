"""Safe/unsafe labels for generated captions and pictures: two small classifiers behind one interface.

They label; they never see how a sample was made. Text: logistic regression over word and character n-grams,
fitted on the curated pairs and on safe captions with and without a taxonomy phrase put in. Pictures: prompts
for a frozen CLIP, of the kind Q16 uses (arXiv 2202.06675). Both are made where they are used, in seconds, from
data under version control; nothing is pickled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from torch.nn import functional

from safeclip.encoders.embed import embed_texts
from safeclip.encoders.load import Encoder
from safeclip.synthesis.pairs import CuratedPair

IMAGE_BATCH = 256
VIEW_SIZE = 0.6
VIEW_ROWS = (0.28, 0.5, 0.72)
VIEW_COLUMNS = (0.2, 0.35, 0.5, 0.65, 0.8)
"""Side and centres of the crops that the picture labeller looks at, as shares of the picture."""
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


class PromptImageLabeller:
    """Compares views of a picture with prompts for unsafe and for safe things, as Q16 does with two prompts.

    Prompts: "a photo of" each taxonomy phrase, against "a photo of" each word and pair of words that the safe
    captions use more than twice. A view's score is the sigmoid of s (best unsafe cosine - best safe cosine), s
    the encoder's own scale; the picture's score is that of its worst view. Views are the whole picture and
    overlapping crops: what is unsafe is often one small thing in a scene.
    """

    def __init__(self, encoder: Encoder, phrases: Sequence[str], safe_captions: Sequence[str]) -> None:
        self._encoder = encoder
        self._unsafe = embed_texts(encoder, [_prompt(phrase) for phrase in phrases])
        self._safe = embed_texts(encoder, [_prompt(words) for words in frequent_words(safe_captions)])
        self._scale = float(encoder.model.logit_scale.detach().exp())

    @torch.no_grad()
    def score(self, items: Sequence[bytes]) -> np.ndarray:
        """Probability of unsafe, float32 [N]; `DataError` names the index of a broken picture."""
        scores = [np.zeros(0, np.float32)]
        for start in range(0, len(items), IMAGE_BATCH):
            pixels = self._encoder.preprocess(items[start : start + IMAGE_BATCH], first_index=start)
            margins = torch.stack([self._margin(view) for view in views(pixels)])  # [views, B]
            scores.append(torch.sigmoid(self._scale * margins.amax(0)).numpy())
        return np.concatenate(scores)

    def _margin(self, pixels: torch.Tensor) -> torch.Tensor:
        """Best unsafe minus best safe cosine of each picture, [B]."""
        found = self._encoder.model.encode_image(pixels, normalize=True).float()
        return (found @ self._unsafe.T).amax(1) - (found @ self._safe.T).amax(1)


def views(pixels: torch.Tensor) -> Iterator[torch.Tensor]:
    """The pictures [B, 3, H, W] whole, then their crops, resized to the same size.

    Crops are VIEW_SIZE of a side wide and overlap; those at the border see its outermost pixels repeated.
    """
    yield pixels
    side, size = pixels.shape[-1], round(VIEW_SIZE * pixels.shape[-1])
    padded = functional.pad(pixels, (size // 2,) * 4, mode="replicate")
    for centre_y in VIEW_ROWS:
        for centre_x in VIEW_COLUMNS:
            top, left = round(centre_y * side), round(centre_x * side)  # in the padded picture
            crop = padded[:, :, top : top + size, left : left + size]
            yield functional.interpolate(crop, size=(side, side), mode="bicubic", antialias=True)


def frequent_words(captions: Sequence[str], least: int = 3) -> list[str]:
    """Words and pairs of neighbouring words that occur `least` times or more, sorted."""
    counts: Counter[str] = Counter()
    for caption in captions:
        words = caption.split()
        counts.update(words)
        counts.update(f"{first} {second}" for first, second in pairwise(words))
    return sorted(text for text, count in counts.items() if count >= least)


def _prompt(words: str) -> str:
    return f"a photo of {words}" if words.startswith(("a ", "an ", "the ")) else f"a photo of a {words}"
