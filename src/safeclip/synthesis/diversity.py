"""How much a set of captions repeats itself: self-BLEU, distinct-n, the Vendi score."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ORDER = 4  # longest n-gram of BLEU


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Share of all n-grams that are different (arXiv 1510.03055); None if there are none."""
    grams = [gram for text in texts for gram in _grams(text.lower().split(), n)]
    return len(set(grams)) / len(grams) if grams else None


def self_bleu(texts: Sequence[str]) -> float | None:
    """Mean BLEU-4 of each text against all others (arXiv 1802.01886), smoothed by one; None below two texts.

    The best count of an n-gram in any other text is kept with its runner-up, so that the cost grows with the
    number of texts and not with its square.
    """
    if len(texts) < 2:
        return None
    words = [text.lower().split() for text in texts]
    tops = [_top_counts(words, n) for n in range(1, _ORDER + 1)]
    lengths = Counter(map(len, words))
    return float(np.mean([_bleu(row, one, tops, lengths) for row, one in enumerate(words)]))


def vendi_score(vectors: NDArray[np.float32]) -> float | None:
    """Effective number of different rows (arXiv 2210.02410): exp of the entropy of the eigenvalues of K/n.

    K holds the cosines of the rows, which are unit vectors [N, D]; None for no rows.
    """
    if not len(vectors):
        return None
    rows = vectors.astype(np.float64)
    values = np.linalg.eigvalsh(rows.T @ rows / len(rows))  # those of K/n that are not zero
    shares = values[values > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]


def _top_counts(words: Sequence[Sequence[str]], n: int) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """For each n-gram the text that has it most often, that count, and the most in any other text."""
    tops: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for row, one in enumerate(words):
        for gram, count in Counter(_grams(one, n)).items():
            owner, best, second = tops.get(gram, (-1, 0, 0))
            tops[gram] = (row, count, best) if count > best else (owner, best, max(second, count))
    return tops


def _bleu(
    row: int,
    words: Sequence[str],
    tops: Sequence[dict[tuple[str, ...], tuple[int, int, int]]],
    lengths: Counter[int],
) -> float:
    logs = []
    for n, top in enumerate(tops, start=1):
        counts = Counter(_grams(words, n))
        matched = 0
        for gram, count in counts.items():
            owner, best, second = top[gram]
            matched += min(count, second if owner == row else best)
        smooth = int(n > 1)
        logs.append(math.log(max(matched + smooth, 1e-9) / max(counts.total() + smooth, 1e-9)))
    others = lengths - Counter({len(words): 1})
    nearest = min(others, key=lambda length: (abs(length - len(words)), length))
    brevity = min(0.0, 1 - nearest / len(words)) if words else -math.inf
    return math.exp(brevity + sum(logs) / len(logs))
