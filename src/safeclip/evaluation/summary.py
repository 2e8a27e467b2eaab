"""From outcomes to metrics.json: numbers by model with their intervals beside them, and slices worst first.

    {"candidate": TREE, "base": TREE, "production": TREE or null,
     "intervals": {"candidate": TREE, "base": TREE, "change": TREE, ...},
     "resampling": {"seed", "replicates", "confidence"}, "n": {...}, "digests": {...}}

A TREE nests a metric's dotted name (`retrieval.t2i.safe.r1`). Its leaves are numbers below a model, and
{"n", "estimate", "low", "high"} below `intervals`; `change` is candidate minus base, `change_production`
candidate minus production. A metric that was not measured has no leaf: it is never reported as 0.
`resampling` is what the gate needs to compute every interval again.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from safeclip.intervals import Interval, Resampling
from safeclip.outcomes import MODELS, Measured

SLICED = tuple(
    f"retrieval.{way}.{name}"
    for way in ("t2i", "i2t")
    for name in ("unsafe.harmful_top1", "unsafe.redirection", "safe.r1", "safe.preference")
)
"""Metrics reported by category and slice too, as `categories.CATEGORY.METRIC`, `slices.KIND.NAME.METRIC`."""


def summarise(found: dict[str, Measured], how: Resampling, slice_min_n: int = 1) -> dict[str, Any]:
    """Numbers and intervals of every reported metric; `found` as `outcomes.measured` returns it.

    Slices with fewer than `slice_min_n` queries are left out: their intervals would say nothing.
    """
    summary: dict[str, Any] = {model: {} for model in MODELS}
    summary["intervals"] = {}
    for metric, measured in found.items():
        if not is_reported(metric) or (part_of(metric)[0].startswith("slices.") and measured.n < slice_min_n):
            continue
        for name, interval in _intervals(measured, how).items():
            put(summary["intervals"].setdefault(name, {}), metric, interval.as_dict())
            if name in MODELS:
                put(summary[name], metric, round(interval.estimate, 6))
    return {name: tree or None for name, tree in summary.items()} | {"resampling": asdict(how)}


def part_of(metric: str) -> tuple[str, str]:
    """`categories.hate.zeroshot.top1` -> ("categories.hate", "zeroshot.top1"); overall metrics are of ""."""
    names = {"categories": 2, "slices": 3}.get(metric.partition(".")[0], 0)
    parts = metric.split(".")
    return ".".join(parts[:names]), ".".join(parts[names:])


def is_reported(metric: str) -> bool:
    """Overall metrics all are; of categories and slices those of SLICED."""
    part, name = part_of(metric)
    return not part or name in SLICED


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set `tree[a][b][c]` for the path `a.b.c`."""
    *folders, leaf = path.split(".")
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[leaf] = value


def worst_first(found: dict[str, Measured], how: Resampling, slice_min_n: int = 1) -> list[dict[str, Any]]:
    """One row a category or slice and sliced metric, the candidate's worst first within each metric."""
    rows = []
    for name in sorted(found):
        part, metric = part_of(name)
        if metric in SLICED and part and (part.startswith("categories.") or found[name].n >= slice_min_n):
            rows.append(_slice_row(part, metric, found[name], how))
    return sorted(rows, key=lambda row: (row["metric"], _badness(row), row["slice"]))


def _badness(row: dict[str, Any]) -> float:
    """Smaller is worse: harm is bad when high, everything else when low."""
    return float(-row["candidate"] if row["metric"].endswith("harmful_top1") else row["candidate"])


def _slice_row(part: str, metric: str, measured: Measured, how: Resampling) -> dict[str, Any]:
    candidate, change = (
        measured.interval("candidate", how).as_dict(),
        measured.contrast("base", how).as_dict(),
    )
    return {
        "metric": metric,
        "slice": part,
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
