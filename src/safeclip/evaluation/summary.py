"""Per-query outcomes of all models side by side: what intervals and the gate are computed from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from safeclip.core.errors import DataError
from safeclip.evaluation.scenes import Scenes
from safeclip.metrics.intervals import Interval, Resampling
from safeclip.metrics.outcomes import MODELS, SLICED_OUTCOMES, Measured
from safeclip.metrics.retrieval import Outcome


@dataclass(frozen=True)
class ModelOutcomes:
    """One model's outcomes: retrieval by metric, and zero-shot [M] bool."""

    retrieval: dict[str, Outcome]
    zeroshot: np.ndarray


def outcome_table(
    models: Mapping[str, ModelOutcomes],
    scene_ids: list[str],
    categories: list[list[str]],
    zeroshot_ids: list[str],
    slices: list[list[str]] | None = None,
) -> pa.Table:
    """One row a metric and query (SLICED_OUTCOMES), with the categories and slices of its scene.

    `models` has candidate and base, and production if there is one.
    Which queries a metric has depends on the data alone, so the models' outcomes pair by position.
    """
    if not {"candidate", "base"} <= set(models):
        raise DataError("candidate and base must both be evaluated")
    inside = slices or [[] for _ in scene_ids]
    parts = [
        _part(name, outcome.rows, scene_ids, categories, inside, _values(models, name))
        for name, outcome in sorted(models["base"].retrieval.items())
    ]
    correct = {model: found.zeroshot for model, found in models.items()}
    nowhere: list[list[str]] = [[] for _ in zeroshot_ids]
    every = np.arange(len(zeroshot_ids))
    parts.append(_part("zeroshot.top1", every, zeroshot_ids, nowhere, nowhere, correct))
    return pa.concat_tables(parts)


def _values(models: Mapping[str, ModelOutcomes], metric: str) -> dict[str, np.ndarray]:
    return {model: found.retrieval[metric].values for model, found in models.items()}


def _part(
    metric: str,
    rows: np.ndarray,
    ids: list[str],
    categories: list[list[str]],
    slices: list[list[str]],
    values: Mapping[str, np.ndarray],
) -> pa.Table:
    unmeasured = [None] * len(rows)
    columns = {
        "id": [ids[row] for row in rows],
        "metric": [metric] * len(rows),
        "categories": [sorted(categories[row]) for row in rows],
        **{model: values.get(model, unmeasured) for model in MODELS},
        "slices": [slices[row] for row in rows],
    }
    return pa.table(columns, schema=SLICED_OUTCOMES)


# Which slices of the test split a scene belongs to, beside its categories.
#
#   concept.NAME    the concept of the published list whose phrase was asked for, or the phrase itself
#                   where the taxonomy does not know it
#   modality.NAME   what is unsafe in the generated pair, by the judge: both, text_only, picture_only, neither
#   style.NAME      who made the generated picture
#   length.A_to_B   words of the generated caption, cut at its terciles
#
# Names are written with letters, digits and underscores, so that they can stand in a metric's dotted path.


KINDS = ("concept", "modality", "style", "length")
_SIDES = {(True, True): "both", (True, False): "text_only", (False, True): "picture_only"}


def scene_slices(dataset: pa.Table, scenes: Scenes, concept_of: Mapping[str, str]) -> list[list[str]]:
    """A sorted list of `KIND.NAME` a scene. dataset: QUADRUPLETS in the scenes' order. concept_of: phrase ->
    concept's name."""
    concepts, styles = dataset["concept"].to_pylist(), dataset["image_model"].to_pylist()
    lengths = length_slices(scenes.captions_generated)
    unsafe = zip(scenes.text_unsafe.tolist(), scenes.image_unsafe.tolist(), strict=True)
    return [
        sorted(
            (
                f"concept.{as_name(concept_of.get(concept, concept))}",
                f"modality.{_SIDES.get(sides, 'neither')}",
                f"style.{as_name(style)}",
                f"length.{length}",
            )
        )
        for concept, style, length, sides in zip(concepts, styles, lengths, unsafe, strict=True)
    ]


def length_slices(captions: list[str]) -> list[str]:
    """`A_to_B_words` for each caption: the fewest and most words of its third."""
    words = np.array([len(caption.split()) for caption in captions])
    thirds = np.searchsorted(np.quantile(words, [1 / 3, 2 / 3]), words) if len(words) else words
    names = {
        third: f"{words[thirds == third].min()}_to_{words[thirds == third].max()}_words"
        for third in set(thirds.tolist())
    }
    return [names[third] for third in thirds.tolist()]


def as_name(text: str | None) -> str:
    """ "Drug use!" -> "drug_use"; letters of any script are kept, and what has no name is `unnamed`."""
    return re.sub(r"\W+", "_", (text or "").casefold()).strip("_") or "unnamed"


# From outcomes to metrics.json: numbers by model with their intervals beside them, and slices worst first.
#
#     {"candidate": TREE, "base": TREE, "production": TREE or null,
#      "intervals": {"candidate": TREE, "base": TREE, "change": TREE, ...},
#      "resampling": {"seed", "replicates", "confidence"}, "n": {...}, "digests": {...}}
#
# A TREE nests a metric's dotted name (`retrieval.t2i.safe.r1`). Its leaves are numbers below a model, and
# {"n", "estimate", "low", "high"} below `intervals`; `change` is candidate minus base, `change_production`
# candidate minus production. A metric that was not measured has no leaf: it is never reported as 0.
# `resampling` is what the gate needs to compute every interval again.


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
