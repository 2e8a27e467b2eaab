"""How different the generated captions are from each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def distinct_n(captions: Sequence[str], n: int) -> float | None:
    """Different n-grams of words over all of them (Li et al., arXiv 1510.03055); None if there is none.

    Falls with the number of captions: compare equal numbers.
    """
    grams = [
        tuple(words[at : at + n])
        for words in (caption.lower().split() for caption in captions)
        for at in range(len(words) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else None


def vendi(captions: Sequence[str]) -> float | None:
    """The effective number of different captions: exp of the entropy of the eigenvalues of K / n.

    K: cosine similarity of word counts weighted by rarity (Friedman and Dieng, arXiv 2210.02410, eq. 2).
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not captions:
        return None
    vectors = TfidfVectorizer(token_pattern=r"[^\W_]+").fit_transform(captions)
    spectrum = np.linalg.eigvalsh((vectors @ vectors.T).toarray() / len(captions))
    kept = spectrum[spectrum > 1e-12]
    return float(np.exp(-(kept * np.log(kept)).sum()))


def evenness(counts: Sequence[int]) -> float | None:
    """Entropy of the shares over its highest value (Pielou): 1 if all counts are equal, 0 if one has all."""
    total = sum(counts)
    if not total or len(counts) < 2:
        return None
    shares = np.array([count / total for count in counts if count])
    return float(-(shares * np.log(shares)).sum() / np.log(len(counts)))
