"""Per-query outcomes read back: what evaluation summarises and the gate recomputes every number from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from safeclip.errors import DataError
from safeclip.intervals import Interval, Resampling, contrast_interval, proportion_interval

MODELS = ("candidate", "base", "production")


@dataclass(frozen=True)
class Measured:
    """One metric's outcomes by model, each [n] bool over the same queries; production may be missing."""

    metric: str
    values: dict[str, np.ndarray]

    @property
    def n(self) -> int:
        return len(self.values["candidate"])

    def interval(self, model: str, how: Resampling) -> Interval:
        """The model's share of true outcomes."""
        return proportion_interval(self.values[model], how, self.metric)

    def contrast(self, reference: str, how: Resampling, factor: float = 1.0) -> Interval:
        """candidate - factor * reference, paired by query."""
        ours, theirs = self.values["candidate"], self.values[reference]
        return contrast_interval(ours, theirs, how, factor, self.metric)


def measured(table: pa.Table) -> dict[str, Measured]:
    """By metric, and by `categories.CATEGORY.METRIC` for the queries whose scene has that category.

    `table` has the schema OUTCOMES. `DataError` if a model's outcomes are missing for some of the queries.
    """
    names = np.array(table["metric"].to_pylist(), dtype=object)
    columns = {model: _column(table, model) for model in MODELS}
    belongs = _membership(table)
    found: dict[str, Measured] = {}
    for metric in sorted(set(names)):
        rows = names == metric
        found[metric] = _measured(metric, columns, rows)
        for category, members in belongs.items():
            if (rows & members).any():
                name = f"categories.{category}.{metric}"
                found[name] = _measured(name, columns, rows & members)
    return found


def _membership(table: pa.Table) -> dict[str, np.ndarray]:
    lists = table["categories"].to_pylist()
    categories = sorted({category for row in lists for category in row or ()})
    return {name: np.array([name in (row or ()) for row in lists], dtype=bool) for name in categories}


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
