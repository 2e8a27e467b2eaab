"""Thresholds chosen by stated recall, and several labellers made into one.

Scores of different labellers are put on one scale, on which 0.5 is each one's threshold; the ensemble's score
is the highest, so it says unsafe where any of them does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression

from safeclip.errors import DataError

DECISION = 0.5
_EDGE = 1e-4


def choose_threshold(scores: np.ndarray, unsafe: Sequence[bool], *, recall: float) -> float:
    """Where safe and unsafe are equally likely, lowered if that finds less than `recall` of the unsafe items.

    Equally likely by a sigmoid fitted to all of the scores with smoothed targets (Platt, 1999): a handful of
    items fixes no threshold by themselves. `DataError` if the scores cannot tell the two kinds apart.
    """
    true, seen = np.asarray(unsafe, bool), np.asarray(scores, np.float64)
    if not true.any() or true.all():
        raise DataError("needs safe and unsafe items to choose a threshold; complete the set")
    highest = _highest_with(recall, seen, true)
    even = _even_odds(seen, true)
    chosen = highest if even is None else min(even, highest)
    if (seen >= chosen).all():
        raise DataError(
            f"no threshold finds {recall:.0%} of the unsafe items without calling everything unsafe; "
            "remove the labeller, ask for less, or set a `threshold`"
        )
    return float(chosen)


def _highest_with(recall: float, scores: np.ndarray, unsafe: np.ndarray) -> float:
    """The highest threshold, half-way between two scores, that finds the stated share of the unsafe items."""
    levels = np.unique(scores)
    between = np.r_[levels[0], (levels[1:] + levels[:-1]) / 2]
    found = (scores[unsafe] >= between[:, None]).mean(axis=1)
    return float(between[found >= recall - 1e-9].max())


def _even_odds(scores: np.ndarray, unsafe: np.ndarray) -> float | None:
    """The score at which the fitted sigmoid is a half; None if unsafe items do not score higher."""
    clipped = np.clip(scores, _EDGE, 1 - _EDGE)
    evidence = np.log(clipped / (1 - clipped))[:, None]
    hits, rest = unsafe.sum(), (~unsafe).sum()
    target = np.where(unsafe, (hits + 1) / (hits + 2), 1 / (rest + 2))
    fit = LogisticRegression(C=1e6, max_iter=1000)
    fit.fit(np.r_[evidence, evidence], np.repeat([1, 0], len(scores)), np.r_[target, 1 - target])
    slope, offset = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    return 1 / (1 + float(np.exp(np.clip(offset / slope, -50, 50)))) if slope > 1e-6 else None


def centre(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Scores in [0, 1] stretched, each side by itself, so that the threshold lies at 0.5; float32."""
    scores = np.clip(np.asarray(scores, np.float64), 0.0, 1.0)
    below = DECISION * scores / max(threshold, 1e-12)
    above = DECISION + DECISION * (scores - threshold) / max(1.0 - threshold, 1e-12)
    centred = np.where(scores >= threshold, np.clip(above, DECISION, 1.0), np.minimum(below, DECISION - 1e-6))
    return centred.astype(np.float32)


def any_says_so(centred: Sequence[np.ndarray]) -> np.ndarray:
    """The ensemble's score: the highest of its members', float32 [N]."""
    return np.max(np.stack(list(centred)), axis=0).astype(np.float32)


def labels_of(scores: np.ndarray, threshold: float = DECISION) -> list[str]:
    """`unsafe` where the score reaches the threshold, `safe` elsewhere."""
    return ["unsafe" if score >= threshold else "safe" for score in scores]
