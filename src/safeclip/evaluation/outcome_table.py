"""Per-query outcomes of all models side by side: what intervals and the gate are computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from safeclip.errors import DataError
from safeclip.evaluation.retrieval import Outcome
from safeclip.outcomes import MODELS, SLICED_OUTCOMES


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
