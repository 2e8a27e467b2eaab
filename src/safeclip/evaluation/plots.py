"""Curves for `dvc plots` and one bar chart. No times or versions inside: equal numbers, equal bytes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from safeclip.metrics.outcomes import MODELS, lookup
from safeclip.metrics.retrieval import RECALLS

DIRECTIONS = ("t2i.safe", "i2t.safe", "t2i.unsafe", "i2t.unsafe")
HEADLINES = {
    "harmful top-1\ntext to image": "retrieval.t2i.unsafe.harmful_top1",
    "harmful top-1\nimage to text": "retrieval.i2t.unsafe.harmful_top1",
    "redirection\ntext to image": "retrieval.t2i.unsafe.redirection",
    "redirection\nimage to text": "retrieval.i2t.unsafe.redirection",
    "safe R@1\ntext to image": "retrieval.t2i.safe.r1",
    "safe R@1\nimage to text": "retrieval.i2t.safe.r1",
    "zero-shot": "zeroshot.top1",
}
COLOURS = {"base": "#9aa5b1", "production": "#d9a441", "candidate": "#1f6f8b"}


def write_recall_curves(path: Path, metrics: dict[str, Any]) -> None:
    """CSV with one line a k: `k`, then recall by model, direction and kind of query, empty if unmeasured."""
    models = [model for model in MODELS if metrics.get(model)]
    columns = [(model, direction) for direction in DIRECTIONS for model in models]
    header = ["k", *(f"{direction.replace('.', '_')}_{model}" for model, direction in columns)]
    lines = [
        [k, *(lookup(metrics[model], f"retrieval.{direction}.r{k}") for model, direction in columns)]
        for k in RECALLS
    ]
    write_csv(path, header, lines)


def write_slices(path: Path, rows: list[dict[str, Any]]) -> None:
    """CSV of `summary.worst_first`, in its order."""
    header = list(rows[0]) if rows else ["metric", "slice", "n", "candidate"]
    write_csv(path, header, [list(row.values()) for row in rows])


def write_csv(path: Path, header: list[str], lines: list[list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([["" if value is None else value for value in line] for line in lines])


def write_headlines(path: Path, metrics: dict[str, Any]) -> None:
    """PNG bar chart: the headline metrics of base, production and candidate with their intervals."""
    path.parent.mkdir(parents=True, exist_ok=True)
    models = [model for model in COLOURS if metrics.get(model)]
    figure, axes = plt.subplots(figsize=(9.0, 3.6), layout="constrained")
    for index, model in enumerate(models):
        _bars(axes, metrics["intervals"][model], model, index, len(models))
    axes.set_xticks(range(len(HEADLINES)), list(HEADLINES), fontsize=8)
    axes.set_ylim(0.0, 1.0)
    axes.set_ylabel("share of queries")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=len(models), loc="upper right", bbox_to_anchor=(1.0, 1.12))
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def _bars(axes: Axes, intervals: dict[str, Any], model: str, index: int, count: int) -> None:
    width = 0.8 / count
    first = True
    for position, metric in enumerate(HEADLINES.values()):
        found = lookup(intervals, metric)
        if found is None:
            continue
        error = [[found["estimate"] - found["low"]], [found["high"] - found["estimate"]]]
        place = position + (index - (count - 1) / 2) * width
        label = model if first else None
        axes.bar(place, found["estimate"], width, yerr=error, color=COLOURS[model], label=label, capsize=2)
        first = False
