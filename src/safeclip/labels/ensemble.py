"""Several labellers of one modality made into one, and how often labels agree and err.

Scores of different labellers are put on one scale, on which 0.5 is each one's threshold. The ensemble's score
is the highest of those that vote, so an item is unsafe if any of them says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from safeclip.core.errors import DataError, SettingsError
from safeclip.labels.calibration import DECISION, Calibration, centre, choose_threshold
from safeclip.settings import CustomLabeller

Item = TypeVar("Item")
Scored = TypeVar("Scored", contravariant=True)


class Labeller(Protocol[Scored]):
    """Scores items: captions, or images as PNG or JPEG bytes.

    A score is in [0, 1], higher for unsafe; float32 [N]. A `DataError` names the index of an image that does
    not decode.
    """

    def score(self, items: Sequence[Scored]) -> np.ndarray: ...


TextLabeller = Labeller[str]
ImageLabeller = Labeller[bytes]


@dataclass(frozen=True)
class Member(Generic[Item]):
    """A labeller with its threshold and its error on the calibration set."""

    name: str
    labeller: Labeller[Item]
    threshold: float
    votes: bool
    calibration_error: dict[str, Any]


@dataclass(frozen=True)
class Ensemble(Generic[Item]):
    """Several labellers: an item is unsafe if any of those that vote says so."""

    members: tuple[Member[Item], ...]

    def score_each(self, items: Sequence[Item]) -> dict[str, np.ndarray]:
        """Score items with each member, centred on its threshold (0.5 and more is unsafe); float32 [N]."""
        return {m.name: centre(m.labeller.score(items), m.threshold) for m in self.members}

    def combine(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the highest score of the members that vote, float32 [N]."""
        voting = [scores[member.name] for member in self.members if member.votes]
        return np.max(np.stack(voting), axis=0).astype(np.float32)

    def score(self, items: Sequence[Item]) -> np.ndarray:
        """Return the ensemble's score of each item, float32 [N]; 0.5 and more is unsafe."""
        return self.combine(self.score_each(items))

    @property
    def calibration_errors(self) -> dict[str, Any]:
        """Threshold and error of each member on the calibration set, by name."""
        return {member.name: member.calibration_error for member in self.members}


def calibrate(
    labellers: Sequence[Any],
    calibration: Calibration[Item],
    make: Callable[[Any, Calibration[Item]], tuple[Labeller[Item], np.ndarray]],
) -> Ensemble[Item]:
    """Build an ensemble of the labellers that params.yaml lists, each with a threshold of its own.

    Args:
        labellers: settings of each, a list of `label_safety`.
        calibration: the items labelled by hand.
        make: returns the labeller of a setting and its scores of the calibration items, [N].

    Raises:
        SettingsError: no labeller votes.
        DataError: a labeller cannot tell safe from unsafe.
    """
    if not any(cfg.votes for cfg in labellers):
        raise SettingsError("label_safety: no labeller votes; set `votes: true` for one of each modality")
    names = [cfg.name if isinstance(cfg, CustomLabeller) else cfg.kind for cfg in labellers]
    members = []
    for at, (kind, cfg) in enumerate(zip(names, labellers, strict=True)):
        name = kind if names.count(kind) == 1 else f"{kind}-{1 + names[:at].count(kind)}"
        labeller, scores = make(cfg, calibration)
        if cfg.threshold is None:
            try:
                threshold = choose_threshold(scores, calibration.unsafe, recall=cfg.recall)
            except DataError as error:
                raise DataError(f"label_safety: {name}: {error}") from None
        else:
            threshold = cfg.threshold
        labelled = [bool(score >= threshold) for score in scores]
        report = error_report(calibration.unsafe, labelled, calibration.categories) | {
            "threshold": round(threshold, 6),
            "stated_recall": cfg.recall if cfg.threshold is None else None,
            "decides": cfg.votes,
        }
        members.append(Member(name, labeller, threshold, cfg.votes, report))
    return Ensemble(tuple(members))


def labels_of(scores: np.ndarray) -> list[str]:
    """Return `unsafe` where a centred score [N] reaches 0.5, `safe` elsewhere."""
    return ["unsafe" if score >= DECISION else "safe" for score in scores]


def count_states(text_labels: Sequence[str], image_labels: Sequence[str]) -> dict[str, int]:
    """Count the rows in each of the four label states, keyed `text_unsafe_image_safe` and so on."""
    pairs = list(zip(text_labels, image_labels, strict=True))
    states = [(text, image) for text in ("unsafe", "safe") for image in ("unsafe", "safe")]
    return {f"text_{text}_image_{image}": pairs.count((text, image)) for text, image in states}


def label_error(truth: Sequence[bool], labelled: Sequence[bool]) -> dict[str, Any]:
    """Count errors and rates of one modality; True is unsafe. A rate over nothing is None (unmeasured)."""
    true, predicted = np.asarray(truth, bool), np.asarray(labelled, bool)
    hits = int((true & predicted).sum())
    false_alarms = int((~true & predicted).sum())
    misses = int((true & ~predicted).sum())
    return {
        "n": len(true),
        "unsafe": int(true.sum()),
        "false_alarms": false_alarms,
        "misses": misses,
        "accuracy": _rate(int((true == predicted).sum()), len(true)),
        "precision": _rate(hits, hits + false_alarms),
        "recall": _rate(hits, hits + misses),
        "f1": _rate(2 * hits, 2 * hits + false_alarms + misses),
    }


def _rate(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def error_report(
    truth: Sequence[bool | None], labelled: Sequence[bool], categories: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Apply `label_error` to all rows whose truth is known and to those of each category; name the worst."""
    known = [row for row in zip(truth, labelled, categories, strict=True) if row[0] is not None]
    true = np.array([row[0] for row in known], bool)
    predicted = np.array([row[1] for row in known], bool)
    report = label_error(list(true), list(predicted))
    by_category = {}
    for name in sorted({name for row in known for name in row[2]}):
        rows = np.array([name in row[2] for row in known], bool)
        by_category[name] = label_error(list(true[rows]), list(predicted[rows]))
    report["by_category"] = by_category
    if by_category:
        report["worst_category"] = min(by_category, key=lambda name: by_category[name]["accuracy"])
    return report


def pairwise_agreement(scores: Mapping[str, np.ndarray]) -> dict[str, dict[str, float | int | None]]:
    """Compare each two labellers by their centred scores [N], keyed "one and other"."""
    unsafe = {name: np.asarray(values) >= DECISION for name, values in scores.items()}
    return {
        f"{one} and {other}": agreement(unsafe[one], unsafe[other]) for one, other in combinations(unsafe, 2)
    }


def agreement(one: np.ndarray, other: np.ndarray) -> dict[str, float | int | None]:
    """Return n, the share of equal labels and Cohen's kappa of two labellings, bool [N].

    Kappa (Cohen, 1960) is the agreement beyond what both shares make by chance. It is None where both say one
    and the same thing always.
    """
    if not len(one):
        return {"n": 0, "same": None, "kappa": None}
    same = float(np.mean(one == other))
    chance = float(np.mean(one) * np.mean(other) + np.mean(~one) * np.mean(~other))
    kappa = None if chance >= 1.0 else round((same - chance) / (1.0 - chance), 6)
    return {"n": len(one), "same": round(same, 6), "kappa": kappa}
