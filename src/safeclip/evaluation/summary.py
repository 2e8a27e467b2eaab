"""From outcomes to metrics.json: numbers by model with their intervals beside them, and slices worst first.

    {"candidate": TREE, "base": TREE, "production": TREE or null,
     "intervals": {"candidate": TREE, "base": TREE, "change": TREE, ...}, "n": {...}, "digests": {...}}

A TREE nests a metric's dotted name (`retrieval.t2i.safe.r1`). Its leaves are numbers below a model, and
{"n", "estimate", "low", "high"} below `intervals`; `change` is candidate minus base, `change_production`
candidate minus production. A metric that was not measured has no leaf: it is never reported as 0.
"""

from __future__ import annotations

from typing import Any

from safeclip.intervals import Interval, Resampling
from safeclip.outcomes import MODELS, Measured

SLICED = tuple(
    f"retrieval.{way}.{name}"
    for way in ("t2i", "i2t")
    for name in ("unsafe.harmful_top1", "unsafe.redirection", "safe.r1", "safe.preference")
)
"""Metrics reported by category too, as `categories.CATEGORY.METRIC`."""


def summarise(found: dict[str, Measured], how: Resampling) -> dict[str, Any]:
    """Numbers and intervals of every reported metric; `found` as `outcomes.measured` returns it."""
    summary: dict[str, Any] = {model: {} for model in MODELS}
    summary["intervals"] = {}
    for metric, measured in found.items():
        if not is_reported(metric):
            continue
        for name, interval in _intervals(measured, how).items():
            put(summary["intervals"].setdefault(name, {}), metric, interval.as_dict())
            if name in MODELS:
                put(summary[name], metric, round(interval.estimate, 6))
    return {name: tree or None for name, tree in summary.items()}


def is_reported(metric: str) -> bool:
    """Overall metrics all are; of the slices those of SLICED."""
    return not metric.startswith("categories.") or metric.split(".", 2)[2] in SLICED


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set `tree[a][b][c]` for the path `a.b.c`."""
    *folders, leaf = path.split(".")
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[leaf] = value


def worst_first(found: dict[str, Measured], how: Resampling) -> list[dict[str, Any]]:
    """One row a category and sliced metric, the candidate's worst first within each metric."""
    rows = []
    for name in sorted(found):
        if name.startswith("categories.") and is_reported(name):
            _, category, metric = name.split(".", 2)
            rows.append(_slice_row(category, metric, found[name], how))
    return sorted(rows, key=lambda row: (row["metric"], _badness(row), row["category"]))


def _badness(row: dict[str, Any]) -> float:
    """Smaller is worse: harm is bad when high, everything else when low."""
    return float(-row["candidate"] if row["metric"].endswith("harmful_top1") else row["candidate"])


def _slice_row(category: str, metric: str, measured: Measured, how: Resampling) -> dict[str, Any]:
    candidate, change = (
        measured.interval("candidate", how).as_dict(),
        measured.contrast("base", how).as_dict(),
    )
    return {
        "metric": metric,
        "category": category,
        "n": measured.n,
        "candidate": candidate["estimate"],
        "low": candidate["low"],
        "high": candidate["high"],
        "base": measured.interval("base", how).as_dict()["estimate"],
        "change": change["estimate"],
        "change_low": change["low"],
        "change_high": change["high"],
    }


def _intervals(measured: Measured, how: Resampling) -> dict[str, Interval]:
    intervals = {model: measured.interval(model, how) for model in measured.values}
    intervals["change"] = measured.contrast("base", how)
    if "production" in measured.values:
        intervals["change_production"] = measured.contrast("production", how)
    return intervals
