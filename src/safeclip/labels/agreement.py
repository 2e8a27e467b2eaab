"""How the labels came out and, where the truth is known, how often they are wrong: worst category first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

STATES = tuple((text, image) for text in ("unsafe", "safe") for image in ("unsafe", "safe"))


def count_states(text_labels: Sequence[str], image_labels: Sequence[str]) -> dict[str, int]:
    """Rows in each of the four label states, keyed `text_unsafe_image_safe` and so on."""
    pairs = list(zip(text_labels, image_labels, strict=True))
    return {f"text_{text}_image_{image}": pairs.count((text, image)) for text, image in STATES}


def label_error(truth: Sequence[bool], labelled: Sequence[bool]) -> dict[str, Any]:
    """Counts and rates of one modality; True is unsafe. A rate over nothing is None (unmeasured)."""
    true, said = np.asarray(truth, bool), np.asarray(labelled, bool)
    hits, false_alarms, misses = (
        int((true & said).sum()),
        int((~true & said).sum()),
        int((true & ~said).sum()),
    )
    return {
        "n": len(true),
        "unsafe": int(true.sum()),
        "false_alarms": false_alarms,
        "misses": misses,
        "accuracy": _rate(int((true == said).sum()), len(true)),
        "precision": _rate(hits, hits + false_alarms),
        "recall": _rate(hits, hits + misses),
        "f1": _rate(2 * hits, 2 * hits + false_alarms + misses),
    }


def error_report(
    truth: Sequence[bool | None], labelled: Sequence[bool], categories: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """`label_error` over all rows whose truth is known, and over those of each category, the worst named."""
    rows_known = [row for row in zip(truth, labelled, categories, strict=True) if row[0] is not None]
    true, said = (np.array([row[column] for row in rows_known], bool) for column in (0, 1))
    categories = [row[2] for row in rows_known]
    report = label_error(list(true), list(said))
    by_category = {}
    for name in sorted({name for names in categories for name in names}):
        rows = np.array([name in names for names in categories], bool)
        by_category[name] = label_error(list(true[rows]), list(said[rows]))
    report["by_category"] = by_category
    if by_category:
        report["worst_category"] = min(by_category, key=lambda name: by_category[name]["accuracy"])
    return report


def _rate(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def agreement(scores: Mapping[str, np.ndarray]) -> dict[str, dict[str, float | int | None]]:
    """For each two labellers, keyed "one and other": share of items with the same label, and Cohen's kappa.

    scores: centred ones, 0.5 and more is unsafe. Kappa is None where both say one and the same thing always.
    """
    said = {name: np.asarray(values) >= 0.5 for name, values in scores.items()}
    return {f"{one} and {other}": agree(said[one], said[other]) for one, other in combinations(said, 2)}


def agree(one: np.ndarray, other: np.ndarray) -> dict[str, float | int | None]:
    """n, share of equal labels and Cohen's kappa (1960): agreement beyond what both shares make by chance."""
    if not len(one):
        return {"n": 0, "same": None, "kappa": None}
    same = float(np.mean(one == other))
    chance = float(np.mean(one) * np.mean(other) + np.mean(~one) * np.mean(~other))
    kappa = None if chance >= 1.0 else round((same - chance) / (1.0 - chance), 6)
    return {"n": len(one), "same": round(same, 6), "kappa": kappa}
