"""Read per-query outcomes back. Evaluation summarises them; the gate recomputes every number from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from safeclip.core.errors import DataError
from safeclip.core.records import OUTCOMES
from safeclip.metrics.intervals import Interval, Resampling, contrast_interval, proportion_interval

MODELS = ("candidate", "base", "production")
SLICED_OUTCOMES = OUTCOMES.append(pa.field("slices", pa.list_(pa.string())))
"""Schema of outcomes with the slices that each query belongs to (`modality.text_only`)."""


@dataclass(frozen=True)
class Measured:
    """One metric's outcomes by model, each [n] bool over the same queries. Production may be missing."""

    metric: str
    values: dict[str, np.ndarray]

    @property
    def n(self) -> int:
        """Return the number of queries."""
        return len(self.values["candidate"])

    def interval(self, model: str, resampling: Resampling) -> Interval:
        """Estimate the model's share of true outcomes."""
        return proportion_interval(self.values[model], resampling, self.metric)

    def contrast(self, reference: str, resampling: Resampling, factor: float = 1.0) -> Interval:
        """Estimate candidate - factor * reference, paired by query."""
        ours, theirs = self.values["candidate"], self.values[reference]
        return contrast_interval(ours, theirs, resampling, factor, self.metric)


def measured(table: pa.Table) -> dict[str, Measured]:
    """Group a table of outcomes by metric, and by category and slice within each metric.

    Keys are `METRIC`, `categories.CATEGORY.METRIC` for the queries whose scene has that category, and
    `slices.KIND.NAME.METRIC` for those of a slice. `table` has the schema SLICED_OUTCOMES, or OUTCOMES if it
    has no slices.

    Raises:
        DataError: a model's outcomes are missing for some queries.
    """
    names = np.array(table["metric"].to_pylist(), dtype=object)
    columns = {model: _column(table, model) for model in MODELS}
    columns_of_names = [name for name in ("categories", "slices") if name in table.column_names]
    belongs = {part: rows for name in columns_of_names for part, rows in _membership(table, name).items()}
    by_metric: dict[str, Measured] = {}
    for metric in sorted(set(names)):
        rows = np.flatnonzero(names == metric)
        by_metric[metric] = _measured(metric, columns, rows)
        for part, members in belongs.items():
            inside = rows[members[rows]]
            if len(inside):
                by_metric[f"{part}.{metric}"] = _measured(f"{part}.{metric}", columns, inside)
    return by_metric


def lookup(tree: Any, path: str) -> Any:
    """Return `tree[a][b][c]` for the path `a.b.c`; None if any step is missing."""
    for part in path.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _membership(table: pa.Table, column: str) -> dict[str, np.ndarray]:
    """Map `COLUMN.NAME` to [rows] bool, for every name in the lists of a column."""
    members: dict[str, np.ndarray] = {}
    for row, names in enumerate(table[column].to_pylist()):
        for name in names or ():
            members.setdefault(f"{column}.{name}", np.zeros(len(table), dtype=bool))[row] = True
    return dict(sorted(members.items()))


def _column(table: pa.Table, model: str) -> np.ndarray | None:
    column = table[model]
    if column.null_count == len(column) and model == "production":
        return None
    if column.null_count:
        raise DataError(
            f"outcomes: {column.null_count} of {len(column)} are missing for {model}; evaluate again"
        )
    return column.to_numpy(zero_copy_only=False).astype(bool)


def _measured(metric: str, columns: dict[str, np.ndarray | None], rows: np.ndarray) -> Measured:
    return Measured(metric, {model: column[rows] for model, column in columns.items() if column is not None})
