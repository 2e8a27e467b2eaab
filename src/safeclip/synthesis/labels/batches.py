"""Scores of captions in batches of similar length, since a batch is padded to its longest caption."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def score_by_length(
    captions: Sequence[str], batch_size: int, score: Callable[[list[str]], np.ndarray]
) -> np.ndarray:
    """What `score` says of each batch, float32 [N], in the order of the captions."""
    scores = np.zeros(len(captions), np.float32)
    order = sorted(range(len(captions)), key=lambda row: (len(captions[row]), row))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        scores[rows] = score([captions[row] for row in rows])
    return scores
