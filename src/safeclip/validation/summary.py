"""What validation saw, as plain numbers: the content of summary.json and of the page."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pandas as pd

from safeclip.records import SPLITS
from safeclip.validation.facts import STATES
from safeclip.validation.judge import Judgement
from safeclip.validation.quarantine import as_rows, by_reason, totals
from safeclip.validation.suite import Finding


def summarise(judgement: Judgement, categories: Collection[str]) -> dict[str, Any]:
    """Counts, shares and findings; holds no caption, no picture and no time."""
    rows = judgement.rows
    return {
        "passed": not judgement.failures,
        "warnings": len(judgement.warnings),
        "rows": totals(judgement.accounts),
        "stages": as_rows(judgement.accounts),
        "splits": {split: int((rows["split"] == split).sum()) for split in SPLITS},
        "expectations": [_finding(finding) for finding in judgement.findings],
        "label_states": {split: _shares(rows[rows["split"] == split]) for split in SPLITS},
        "categories": {split: _categories(rows[rows["split"] == split], categories) for split in SPLITS},
        "caption_words": {side: _histogram(rows[f"{side}_words"]) for side in ("safe", "generated")},
        "similarity": {
            "mean": _mean(rows["similarity"]),
            "identical": int((rows["similarity"] == 1.0).sum()),
        },
        "quarantine": by_reason(judgement.quarantine),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.name,
        "level": finding.level,
        "promise": finding.promise,
        "passed": finding.passed,
        "observed": finding.observed,
        "rows_at_fault": len(finding.ids),
        "first_rows": list(finding.ids[:5]),
        "detail": finding.detail,
        "on_fail": finding.on_fail,
    }


def _shares(rows: pd.DataFrame) -> dict[str, float | None]:
    """Share of each label state; None where the split is empty."""
    return {state.replace(" ", "_"): _mean(rows[state]) for state in STATES}


def _mean(column: pd.Series) -> float | None:
    return round(float(column.mean()), 6) if len(column) else None


def _categories(rows: pd.DataFrame, categories: Collection[str]) -> dict[str, int]:
    return {category: int(rows[f"category {category}"].sum()) for category in categories}


def _histogram(words: pd.Series) -> dict[str, int]:
    """Captions by number of words; keys are zero-padded so that sorted JSON keeps their order."""
    counts = words.dropna().astype(int).value_counts().sort_index()
    return {f"{length:02d}": int(counts[length]) for length in counts.index}
