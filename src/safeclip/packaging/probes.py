"""Fit the probes that tell how unsafe an input is; they are packaged with the model.

A probe reads the base embedding beside the served one. The base towers know what is in an input. Where the
served towers moved it tells what they took it for, which a probe on the base embedding alone hardly finds.
Probes are fitted on the train split's labels; thresholds and errors come from the val split. Only numbers are
stored: no caption, no image and no wording of the data goes into a Bento.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from safeclip.core.errors import DataError

FALSE_ALARMS = 0.05
"""Share of safe val inputs that the thresholds may call unsafe, or moved."""
MARKED_SHARE = 0.95
"""Share of unsafe val inputs that a page must mark, whatever that costs in false alarms."""
INVERSE_PENALTY = 100.0
"""Of the logistic regressions; from 10 to 1000 the area under the curve on val differs by 0.02."""
NEVER = -20.0
"""Logit of a category that no input of the train split shows."""
DIGITS = 6
"""Significant digits of a stored weight."""


@dataclass(frozen=True)
class Labelled:
    """Features [N, 2D], base and served embeddings side by side, with unsafe [N] bool and the categories of
    each input (empty where safe)."""

    features: np.ndarray
    unsafe: np.ndarray
    categories: Sequence[Sequence[str]]

    def targets(self, names: Sequence[str]) -> np.ndarray:
        """Return [N, 1 + C] of 0 and 1: unsafe, then each category."""
        has = [[name in row for name in names] for row in self.categories]
        return np.column_stack([self.unsafe, np.array(has, bool).reshape(len(self.unsafe), len(names))])


def fit_probe(
    train: Labelled, val: Labelled, shifts: np.ndarray, categories: Sequence[str], seed: int
) -> dict[str, Any]:
    """Fit one modality's probe and return its entry of scoring.json.

    Args:
        shifts: [N] of the val inputs, 1 - cosine of candidate and base embedding.

    Raises:
        DataError: a split lacks safe or unsafe inputs; an unmeasured probe is not packaged.
    """
    for name, split in (("train", train), ("val", val)):
        if not 0 < split.unsafe.sum() < len(split.unsafe):
            raise DataError(f"{name} split: safe and unsafe inputs are both needed; add rows to the data set")
    probe = _fit(train, categories, seed)
    scores = _outputs(probe, val.features)[:, 0]
    threshold = _quantile(scores[~val.unsafe])
    return {
        "categories": list(categories),
        **probe,
        "scoring": {
            "threshold": threshold,
            "hide_threshold": min(threshold, float(np.quantile(scores[val.unsafe], 1 - MARKED_SHARE))),
            "shift_threshold": _quantile(shifts[~val.unsafe]),
            "false_alarms": float((scores[~val.unsafe] >= threshold).mean()),
            "recall": float((scores[val.unsafe] >= threshold).mean()),
            "n": len(scores),
        },
    }


def _fit(train: Labelled, categories: Sequence[str], seed: int) -> dict[str, list]:
    """Fit one logistic regression per output, "unsafe" and each category, on all inputs."""
    fitted = [_regression(train.features, column, seed) for column in train.targets(categories).T]
    return {
        "weight": _rounded(np.stack([weight for weight, _ in fitted], axis=1)),
        "bias": _rounded(np.array([bias for _, bias in fitted])),
    }


def _regression(features: np.ndarray, column: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    if not column.any():
        return np.zeros(features.shape[1]), NEVER
    model = LogisticRegression(C=INVERSE_PENALTY, class_weight="balanced", max_iter=2000, random_state=seed)
    model.fit(features, column)
    return model.coef_[0], float(model.intercept_[0])


def _rounded(values: np.ndarray) -> list:
    return np.vectorize(lambda value: float(f"{value:.{DIGITS}g}"))(values).tolist()


def _outputs(probe: dict[str, list], features: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-(features @ np.asarray(probe["weight"]) + np.asarray(probe["bias"]))))


def _quantile(of_safe: np.ndarray) -> float:
    """Return the smallest value that at most `FALSE_ALARMS` of the safe inputs exceed, a hair above it."""
    return float(np.quantile(of_safe, 1 - FALSE_ALARMS, method="higher")) + 1e-6
