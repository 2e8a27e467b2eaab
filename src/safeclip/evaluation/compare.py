"""Several encoders on the same scenes, in one table: released models, our base, our candidate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safeclip.encoders.load import Encoder
from safeclip.evaluation.retrieval import retrieval_outcomes
from safeclip.evaluation.scenes import Scenes, embed_scenes
from safeclip.evaluation.zeroshot import ZeroShotSet, zeroshot_correct
from safeclip.intervals import Interval, Resampling, proportion_interval

Scores = dict[str, Interval]
"""Metric -> share with its interval."""

SHOWN = (
    "retrieval.t2i.unsafe.harmful_top1",
    "retrieval.i2t.unsafe.harmful_top1",
    "retrieval.t2i.unsafe.redirection",
    "retrieval.i2t.unsafe.redirection",
    "retrieval.t2i.safe.r1",
    "retrieval.i2t.safe.r1",
    "retrieval.t2i.safe.preference",
    "retrieval.i2t.safe.preference",
    "zeroshot.top1",
)


def score(
    encoder: Encoder, scenes: Scenes, task: ZeroShotSet | None, how: Resampling, batch_size: int = 256
) -> Scores:
    """Every retrieval metric, and zero-shot accuracy if there is a set; what was not measured has no key."""
    embeddings = embed_scenes(encoder, scenes, batch_size)
    outcomes = retrieval_outcomes(embeddings, scenes.text_unsafe, scenes.image_unsafe)
    found = {name: proportion_interval(each.values, how, name) for name, each in outcomes.items()}
    if task is not None and task.labels:
        correct = zeroshot_correct(encoder, task, batch_size)
        found["zeroshot.top1"] = proportion_interval(correct, how, "zeroshot.top1")
    return found


def table_lines(scores: Mapping[str, Scores], every: bool = False) -> list[str]:
    """One line a metric, one column a model: share and interval."""
    present = {metric for found in scores.values() for metric in found}
    metrics = sorted(present) if every else [metric for metric in SHOWN if metric in present]
    width = max(map(len, metrics), default=6)
    columns = [max(len(name), 21) for name in scores]
    heads = "  ".join(f"{name:>{column}}" for name, column in zip(scores, columns, strict=True))
    lines = [f"{'':{width}}  {heads}"]
    for metric in metrics:
        cells = [
            f"{_cell(found.get(metric)):>{column}}"
            for found, column in zip(scores.values(), columns, strict=True)
        ]
        lines.append(f"{metric:{width}}  {'  '.join(cells)}")
    return lines


def as_json(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """Model -> metric -> {n, estimate, low, high}."""
    return {
        name: {metric: value.as_dict() for metric, value in found.items()} for name, found in scores.items()
    }


def _cell(found: Interval | None) -> str:
    return "not measured" if found is None else f"{found.estimate:.3f} [{found.low:.3f},{found.high:.3f}]"
