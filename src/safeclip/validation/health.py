"""Signs of a poor data set that is within its contract: each a warning or a stop, as params say."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from safeclip.settings.validate_data import Checks, ValidateData
from safeclip.validation.diversity import distinct_n, evenness, vendi
from safeclip.validation.drift import Distributions, drift
from safeclip.validation.duplicates import content_words, near_hashes
from safeclip.validation.label_errors import doubtful_labels
from safeclip.validation.suite import Finding

DISTINCT_CAPTIONS, VENDI_CAPTIONS = 1000, 500

PROMISES = {
    "min_labeller_kappa": "two labellers of a modality agree (Cohen's kappa, the lowest)",
    "min_text_image_same": "caption and picture have the same label",
    "min_category_evenness": "the categories are about equally frequent (evenness)",
    "min_distinct_2": f"different word pairs of all, in {DISTINCT_CAPTIONS:,} generated captions",
    "min_vendi_share": f"effectively different captions (Vendi score), of {VENDI_CAPTIONS} generated",
    "max_repeated_captions": "generated captions with the words of an earlier one of their split",
    "max_repeated_pictures": "generated pictures near an earlier one of their split",
    "max_leaked_captions": "generated captions with the words of one in another split",
    "max_leaked_pictures": "generated pictures near one in another split",
    "max_text_label_errors": "caption labels that confident learning doubts",
    "max_drift": "distance from the accepted data set (total variation, the largest)",
}


@dataclass(frozen=True)
class Measured:
    """A figure, None if there is nothing to measure; the rows behind it; what it came from."""

    value: float | None
    ids: tuple[str, ...] = ()
    detail: str = ""


def examine(
    rows: pd.DataFrame,
    bounds: ValidateData,
    *,
    categories: Collection[str],
    agreement: Mapping[str, Any],
    before: Distributions,
    now: Distributions,
) -> list[Finding]:
    """A finding for each check; `rows` are those that stay, `agreement` that of `label_safety`."""
    measured = dict(_labels(rows, agreement)) | dict(_variety(rows, categories))
    measured |= dict(_repeats(rows, bounds.near_hash_bits))
    measured["max_drift"] = _drift(before, now)
    return [_finding(name, measured[name], bounds.checks) for name in PROMISES]


def _finding(name: str, measured: Measured, checks: Checks) -> Finding:
    check, value = getattr(checks, name), measured.value
    least = name.startswith("min_")
    passed = value is None or (value >= check.bound if least else value <= check.bound)
    side = "at least" if least else "at most"
    return Finding(
        name=name.partition("_")[2],
        level="quality",
        promise=f"{PROMISES[name]}: {side} {check.bound:g}",
        passed=passed,
        observed=None if value is None else round(value, 6),
        ids=measured.ids,
        detail=measured.detail,
        on_fail=check.on_fail,
    )


def _labels(rows: pd.DataFrame, agreement: Mapping[str, Any]) -> Iterator[tuple[str, Measured]]:
    kappas = {
        f"{side}: {pair}": found["kappa"]
        for side in ("text", "image")
        for pair, found in agreement.get(side, {}).items()
        if found["kappa"] is not None
    }
    worst = min(kappas, key=lambda pair: kappas[pair], default="")
    alone = "one labeller a modality, nothing to compare"
    yield "min_labeller_kappa", Measured(kappas.get(worst), detail=worst or alone)
    same = (rows["text_label"] == rows["image_label"]).mean() if len(rows) else None
    yield "min_text_image_same", Measured(None if same is None else float(same))
    doubted = doubtful_labels(rows["caption_generated"].tolist(), (rows["text_label"] == "unsafe").tolist())
    yield "max_text_label_errors", _flagged(rows, doubted)


def _variety(rows: pd.DataFrame, categories: Collection[str]) -> Iterator[tuple[str, Measured]]:
    captions = rows["caption_generated"].tolist()
    counts = [int(rows[f"category {category}"].sum()) for category in categories]
    yield "min_category_evenness", Measured(evenness(counts))
    yield "min_distinct_2", Measured(distinct_n(_spread(captions, DISTINCT_CAPTIONS), 2))
    sample = _spread(captions, VENDI_CAPTIONS)
    different = vendi(sample)
    yield "min_vendi_share", Measured(None if different is None else different / len(sample))


def _spread(captions: list[str], count: int) -> list[str]:
    """At most `count` captions, evenly spread over all."""
    return captions[:: max(1, -(-len(captions) // count))]


def _repeats(rows: pd.DataFrame, near_bits: int) -> Iterator[tuple[str, Measured]]:
    splits = [str(split) for split in rows["split"]]
    words = [content_words(caption) for caption in rows["caption_generated"]]
    within, across = _same_words(words, splits)
    yield "max_repeated_captions", _flagged(rows, within)
    yield "max_leaked_captions", _flagged(rows, across)
    hashes = np.array([int(bits, 16) for bits in rows["image_generated_hash"]], dtype=np.uint64)
    within, across = near_hashes(hashes, np.array(splits), near_bits)
    yield "max_repeated_pictures", _flagged(rows, within)
    yield "max_leaked_pictures", _flagged(rows, across)


def _same_words(words: list[tuple[str, ...]], splits: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """bool[N] twice: an earlier row of the split has these words; a row of another split has them."""
    homes: dict[tuple[str, ...], list[str]] = {}
    within = []
    for key, split in zip(words, splits, strict=True):
        seen = homes.setdefault(key, [])
        within.append(split in seen)
        seen.append(split)
    across = [len(set(homes[key])) > 1 for key in words]
    return np.array(within, dtype=bool), np.array(across, dtype=bool)


def _flagged(rows: pd.DataFrame, flags: np.ndarray | None) -> Measured:
    if flags is None or not len(rows):
        return Measured(None)
    return Measured(float(flags.mean()), tuple(rows["id"][flags].astype(str)))


def _drift(before: Distributions, now: Distributions) -> Measured:
    found = drift(before, now)
    worst = max(found, key=lambda name: found[name], default="")
    return Measured(found.get(worst), detail=worst or "no data set was accepted yet")
