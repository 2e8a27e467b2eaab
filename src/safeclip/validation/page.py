"""Summarise a validation in plain numbers, for summary.json, and render its page, which loads nothing.

Generated images are blurred in their pixels whatever their label says (labels err); generated captions wait
behind a click.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from safeclip.core.records import SPLITS
from safeclip.pages.charts import Series, bars, shares
from safeclip.pages.render import blurred, render, thumbnail
from safeclip.validation.contract import CheckResult
from safeclip.validation.facts import STATES
from safeclip.validation.quarantine import ValidationResult, as_rows, by_reason, totals

_TEMPLATE = Path(__file__).with_name("page.html.j2")


def summarise(validation: ValidationResult, categories: Collection[str]) -> dict[str, Any]:
    """Collect counts, shares and results; they hold no caption, no image and no time."""
    rows = validation.rows
    return {
        "passed": not validation.failures,
        "warnings": len(validation.warnings),
        "rows": totals(validation.accounts),
        "stages": as_rows(validation.accounts),
        "splits": {split: int((rows["split"] == split).sum()) for split in SPLITS},
        "expectations": [_result(result) for result in validation.results],
        "label_states": {split: _shares(rows[rows["split"] == split]) for split in SPLITS},
        "categories": {split: _categories(rows[rows["split"] == split], categories) for split in SPLITS},
        "caption_words": {side: _histogram(rows[f"{side}_words"]) for side in ("safe", "generated")},
        "similarity": {
            "mean": _mean(rows["similarity"]),
            "identical": int((rows["similarity"] == 1.0).sum()),
        },
        "quarantine": by_reason(validation.rejections),
    }


def _result(result: CheckResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "level": result.level,
        "promise": result.promise,
        "passed": result.passed,
        "observed": result.observed,
        "rows_at_fault": len(result.ids),
        "first_rows": list(result.ids[:5]),
        "detail": result.detail,
        "on_fail": result.on_fail,
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


def make_page(summary: Mapping[str, Any], samples: Sequence[Mapping[str, Any]] = ()) -> str:
    """Render summary.json's content and `samples` (from `sample_cards`) as HTML."""
    words = [
        Series(f"{side} captions", [int(length) for length in counts], list(counts.values()))
        for side in ("safe", "generated")
        for counts in [summary["caption_words"][side]]
    ]
    return render(
        _TEMPLATE,
        summary=summary,
        samples=samples,
        states=[state.replace(" ", "_") for state in STATES],
        state_bars={
            split: shares(
                {name: summary["label_states"][split][name.replace(" ", "_")] for name in STATES},
                title=f"label states of the {split} split",
            )
            for split in SPLITS
        },
        words=bars(words, title="Captions by number of words", x_label="words"),
        failures=_failed(summary, "stop"),
        warnings=_failed(summary, "warn"),
    )


def _failed(summary: Mapping[str, Any], on_fail: str) -> list[dict[str, Any]]:
    return [f for f in summary["expectations"] if not f["passed"] and f["on_fail"] == on_fail]


def choose_samples(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """Choose at most `count` rows: label states in turn, by id."""
    by_state = [rows[rows[state] == 1.0].sort_values("id").head(count) for state in STATES]
    turns = [state.index[turn] for turn in range(count) for state in by_state if turn < len(state)]
    return rows.loc[turns[:count]]


def sample_cards(rows: pd.DataFrame, images: Mapping[str, tuple[bytes, bytes]]) -> list[dict[str, Any]]:
    """Make rows ready for the page; `images` holds the safe and the generated one of each row's id."""
    return [_card(row, *images[row["id"]]) for _, row in rows.iterrows()]


def _card(row: pd.Series, image_safe: bytes, image_generated: bytes) -> dict[str, Any]:
    kept = ("id", "split", "caption_safe", "caption_generated", "concept", "text_label", "image_label")
    sample = {key: row[key] for key in kept}
    scores = {"text_score": float(row["text_score"]), "image_score": float(row["image_score"])}
    images = {"safe": thumbnail(image_safe), "generated": blurred(image_generated)}
    return sample | scores | images | {"categories": list(row["categories"])}
