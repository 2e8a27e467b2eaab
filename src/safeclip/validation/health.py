"""Signs of a poor data set that is within its contract: each a warning or a stop, as params.yaml says.

Measures how different the generated captions are from each other, how far the data set has moved from the
one that was last accepted, and which labels the other rows speak against.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from safeclip.core.artifacts import DATA_BASELINE
from safeclip.core.errors import DataError
from safeclip.settings import Checks, ValidateData
from safeclip.validation.contract import CheckResult
from safeclip.validation.near_duplicates import content_words, near_hashes

FOLDS = 4  # of the captions, to fit the model that doubts labels
DISTINCT_CAPTIONS, VENDI_CAPTIONS = 1000, 500  # equal numbers, so that data sets compare


def distinct_n(captions: Sequence[str], n: int) -> float | None:
    """Divide different n-grams of words by all of them (Li et al., arXiv 1510.03055); None if there is none.

    Falls with the number of captions: compare equal numbers.
    """
    grams = [
        tuple(words[at : at + n])
        for words in (caption.lower().split() for caption in captions)
        for at in range(len(words) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else None


def vendi(captions: Sequence[str]) -> float | None:
    """Return the effective number of different captions: exp of the entropy of K / n's eigenvalues.

    K: cosine similarity of word counts weighted by rarity (Friedman and Dieng, arXiv 2210.02410, eq. 2).
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not captions:
        return None
    vectors = TfidfVectorizer(token_pattern=r"[^\W_]+").fit_transform(captions)
    spectrum = np.linalg.eigvalsh((vectors @ vectors.T).toarray() / len(captions))
    kept = spectrum[spectrum > 1e-12]
    return float(np.exp(-(kept * np.log(kept)).sum()))


def evenness(counts: Sequence[int]) -> float | None:
    """Divide the entropy of the shares by its highest value (Pielou): 1 for equal counts, 0 for one alone."""
    total = sum(counts)
    if not total or len(counts) < 2:
        return None
    shares = np.array([count / total for count in counts if count])
    return float(-(shares * np.log(shares)).sum() / np.log(len(counts)))


# The accepted data set is known by these, in a small file under version control: a comparison with whatever
# ran before on some machine would not give the same bytes twice.
Distributions = dict[str, dict[str, float]]


def distributions(summary: Mapping[str, Any]) -> Distributions:
    """Shares of label states, categories and caption lengths in a data set, from its summary."""
    rows = {split: count for split, count in summary["splits"].items() if count}
    states: dict[str, float] = {}
    for split, count in rows.items():
        for state, share in summary["label_states"][split].items():
            states[state] = states.get(state, 0.0) + share * count
    categories: dict[str, float] = {}
    for counts in summary["categories"].values():
        for name, count in counts.items():
            categories[name] = categories.get(name, 0.0) + count
    lengths = {f"{side} caption lengths": dict(counts) for side, counts in summary["caption_words"].items()}
    counts_by_name = {"label states": states, "categories": categories} | lengths
    return {name: _shares(counts) for name, counts in counts_by_name.items()}


def _shares(counts: Mapping[str, float]) -> dict[str, float]:
    total = sum(counts.values())
    return {name: round(count / total, 6) for name, count in sorted(counts.items())} if total else {}


def drift(before: Distributions, now: Distributions) -> dict[str, float]:
    """Total variation distance of each distribution that both have: 0 the same, 1 nothing in common.

    Summed exactly, since the order of a set differs from run to run.
    """
    return {
        name: round(fsum(abs(now[name].get(k, 0) - shares.get(k, 0)) for k in {*now[name], *shares}) / 2, 6)
        for name, shares in sorted(before.items())
        if shares and now.get(name)
    }


def read_baseline(path: Path = DATA_BASELINE) -> Distributions:
    """Read the accepted data set's distributions; empty if none was accepted yet (the file holds `{}`)."""
    try:
        accepted = json.loads(path.read_text(encoding="utf-8"))
        return {name: {k: float(v) for k, v in shares.items()} for name, shares in accepted.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        why = str(error).splitlines()[0][:80]
        raise DataError(f"{path}: not readable ({why}); restore it, or write {{}} into it") from None


def doubtful_labels(captions: Sequence[str], unsafe: Sequence[bool]) -> np.ndarray | None:
    """Flag captions whose label is likely wrong, by a model of words fitted on the other folds.

    Confident learning (Northcutt et al., arXiv 1911.00068). Returns bool [N], or None if there are too few
    captions of one kind to fit and test on.
    """
    from cleanlab.filter import find_label_issues
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    labels = np.asarray(unsafe, dtype=int)
    if min(labels.sum(), len(labels) - labels.sum()) < FOLDS:
        return None
    words = CountVectorizer(binary=True, ngram_range=(1, 2), token_pattern=r"[^\W_]+")
    model = make_pipeline(words, LogisticRegression(class_weight="balanced", max_iter=1000))
    folds = StratifiedKFold(FOLDS)
    chances = cross_val_predict(model, list(captions), labels, cv=folds, method="predict_proba")
    return np.asarray(find_label_issues(labels, chances, n_jobs=1), dtype=bool)


PROMISES = {
    "min_labeller_kappa": "two labellers of a modality agree (Cohen's kappa, the lowest)",
    "min_text_image_same": "caption and image have the same label",
    "min_category_evenness": "the categories are about equally frequent (evenness)",
    "min_distinct_2": f"different word pairs of all, in {DISTINCT_CAPTIONS:,} generated captions",
    "min_vendi_share": f"effectively different captions (Vendi score), of {VENDI_CAPTIONS} generated",
    "max_repeated_captions": "generated captions with the words of an earlier one of their split",
    "max_repeated_pictures": "generated images near an earlier one of their split",
    "max_leaked_captions": "generated captions with the words of one in another split",
    "max_leaked_pictures": "generated images near one in another split",
    "max_text_label_errors": "caption labels that confident learning doubts",
    "max_drift": "distance from the accepted data set (total variation, the largest)",
}


@dataclass(frozen=True)
class Measurement:
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
) -> list[CheckResult]:
    """Return a result for each check; `rows` are those that stay, `agreement` that of `label_safety`."""
    measured = dict(_labels(rows, agreement)) | dict(_variety(rows, categories))
    measured |= dict(_repeats(rows, bounds.near_hash_bits))
    measured["max_drift"] = _drift(before, now)
    return [_result(name, measured[name], bounds.checks) for name in PROMISES]


def _result(name: str, measured: Measurement, checks: Checks) -> CheckResult:
    check, value = getattr(checks, name), measured.value
    least = name.startswith("min_")
    passed = value is None or (value >= check.bound if least else value <= check.bound)
    side = "at least" if least else "at most"
    return CheckResult(
        name=name.partition("_")[2],
        level="quality",
        promise=f"{PROMISES[name]}: {side} {check.bound:g}",
        passed=passed,
        observed=None if value is None else round(value, 6),
        ids=measured.ids,
        detail=measured.detail,
        on_fail=check.on_fail,
    )


def _labels(rows: pd.DataFrame, agreement: Mapping[str, Any]) -> Iterator[tuple[str, Measurement]]:
    kappas = {
        f"{side}: {pair}": measured["kappa"]
        for side in ("text", "image")
        for pair, measured in agreement.get(side, {}).items()
        if measured["kappa"] is not None
    }
    worst = min(kappas, key=lambda pair: kappas[pair], default="")
    alone = "one labeller a modality, nothing to compare"
    yield "min_labeller_kappa", Measurement(kappas.get(worst), detail=worst or alone)
    same = (rows["text_label"] == rows["image_label"]).mean() if len(rows) else None
    yield "min_text_image_same", Measurement(None if same is None else float(same))
    doubted = doubtful_labels(rows["caption_generated"].tolist(), (rows["text_label"] == "unsafe").tolist())
    yield "max_text_label_errors", _flagged(rows, doubted)


def _variety(rows: pd.DataFrame, categories: Collection[str]) -> Iterator[tuple[str, Measurement]]:
    captions = rows["caption_generated"].tolist()
    counts = [int(rows[f"category {category}"].sum()) for category in categories]
    yield "min_category_evenness", Measurement(evenness(counts))
    yield "min_distinct_2", Measurement(distinct_n(_spread(captions, DISTINCT_CAPTIONS), 2))
    sample = _spread(captions, VENDI_CAPTIONS)
    different = vendi(sample)
    yield "min_vendi_share", Measurement(None if different is None else different / len(sample))


def _spread(captions: list[str], count: int) -> list[str]:
    """At most `count` captions, evenly spread over all."""
    return captions[:: max(1, -(-len(captions) // count))]


def _repeats(rows: pd.DataFrame, near_bits: int) -> Iterator[tuple[str, Measurement]]:
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


def _flagged(rows: pd.DataFrame, flags: np.ndarray | None) -> Measurement:
    if flags is None or not len(rows):
        return Measurement(None)
    return Measurement(float(flags.mean()), tuple(rows["id"][flags].astype(str)))


def _drift(before: Distributions, now: Distributions) -> Measurement:
    distances = drift(before, now)
    worst = max(distances, key=lambda name: distances[name], default="")
    return Measurement(distances.get(worst), detail=worst or "no data set was accepted yet")
