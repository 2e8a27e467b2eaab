"""What a labeller is: items in, scores out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from sklearn.linear_model import LogisticRegression

from safeclip.core.errors import DataError, SettingsError
from safeclip.labels.agreement import error_report
from safeclip.labels.calibration import Calibration


class TextLabeller(Protocol):
    """Score in [0, 1] of each caption, higher for unsafe, float32 [N]."""

    def score(self, items: Sequence[str]) -> np.ndarray: ...


class ImageLabeller(Protocol):
    """Score in [0, 1] of each picture (PNG or JPEG bytes), higher for unsafe, float32 [N].

    A `DataError` names the index of a picture that does not decode.
    """

    def score(self, items: Sequence[bytes]) -> np.ndarray: ...


# Scores of captions in batches of similar length, since a batch is padded to its longest caption.


def score_by_length(
    captions: Sequence[str], batch_size: int, score: Callable[[list[str]], np.ndarray]
) -> np.ndarray:
    """What `score` says of each batch, float32 [N], in the order of the captions."""
    scores = np.zeros(len(captions), np.float32)
    order = sorted(range(len(captions)), key=lambda row: (len(captions[row]), row))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        scores[rows] = score([captions[row] for row in rows])
    return scores


# Thresholds chosen by stated recall, and several labellers made into one.
#
# Scores of different labellers are put on one scale, on which 0.5 is each one's threshold; the ensemble's
# score is the highest, so it says unsafe where any of them does.


DECISION = 0.5
_EDGE = 1e-4


def choose_threshold(scores: np.ndarray, unsafe: Sequence[bool], *, recall: float) -> float:
    """Where safe and unsafe are equally likely, lowered if that finds less than `recall` of the unsafe items.

    Equally likely by a sigmoid fitted to all of the scores with smoothed targets (Platt, 1999): a handful of
    items fixes no threshold by themselves. `DataError` if the scores cannot tell the two kinds apart.
    """
    true, seen = np.asarray(unsafe, bool), np.asarray(scores, np.float64)
    if not true.any() or true.all():
        raise DataError("needs safe and unsafe items to choose a threshold; complete the set")
    highest = _highest_with(recall, seen, true)
    even = _even_odds(seen, true)
    chosen = highest if even is None else min(even, highest)
    if (seen >= chosen).all():
        raise DataError(
            f"no threshold finds {recall:.0%} of the unsafe items without calling everything unsafe; "
            "remove the labeller, ask for less, or set a `threshold`"
        )
    return float(chosen)


def _highest_with(recall: float, scores: np.ndarray, unsafe: np.ndarray) -> float:
    """The highest threshold, half-way between two scores, that finds the stated share of the unsafe items."""
    levels = np.unique(scores)
    between = np.r_[levels[0], (levels[1:] + levels[:-1]) / 2]
    found = (scores[unsafe] >= between[:, None]).mean(axis=1)
    return float(between[found >= recall - 1e-9].max())


def _even_odds(scores: np.ndarray, unsafe: np.ndarray) -> float | None:
    """The score at which the fitted sigmoid is a half; None if unsafe items do not score higher."""
    clipped = np.clip(scores, _EDGE, 1 - _EDGE)
    evidence = np.log(clipped / (1 - clipped))[:, None]
    hits, rest = unsafe.sum(), (~unsafe).sum()
    target = np.where(unsafe, (hits + 1) / (hits + 2), 1 / (rest + 2))
    fit = LogisticRegression(C=1e6, max_iter=1000)
    fit.fit(np.r_[evidence, evidence], np.repeat([1, 0], len(scores)), np.r_[target, 1 - target])
    slope, offset = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    return 1 / (1 + float(np.exp(np.clip(offset / slope, -50, 50)))) if slope > 1e-6 else None


def centre(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Scores in [0, 1] stretched, each side by itself, so that the threshold lies at 0.5; float32."""
    scores = np.clip(np.asarray(scores, np.float64), 0.0, 1.0)
    below = DECISION * scores / max(threshold, 1e-12)
    above = DECISION + DECISION * (scores - threshold) / max(1.0 - threshold, 1e-12)
    centred = np.where(scores >= threshold, np.clip(above, DECISION, 1.0), np.minimum(below, DECISION - 1e-6))
    return centred.astype(np.float32)


def any_says_so(centred: Sequence[np.ndarray]) -> np.ndarray:
    """The ensemble's score: the highest of its members', float32 [N]."""
    return np.max(np.stack(list(centred)), axis=0).astype(np.float32)


def labels_of(scores: np.ndarray, threshold: float = DECISION) -> list[str]:
    """`unsafe` where the score reaches the threshold, `safe` elsewhere."""
    return ["unsafe" if score >= threshold else "safe" for score in scores]


# Labellers with their thresholds; several of them become one panel.


Item = TypeVar("Item")
Seen = TypeVar("Seen", contravariant=True)


class Labeller(Protocol[Seen]):
    """A text or an image labeller."""

    def score(self, items: Sequence[Seen]) -> np.ndarray: ...


@dataclass(frozen=True)
class Member(Generic[Item]):
    """A labeller with its threshold and how well it does on the calibration set."""

    name: str
    labeller: Labeller[Item]
    threshold: float
    decides: bool
    report: dict[str, Any]


@dataclass(frozen=True)
class Panel(Generic[Item]):
    """Several labellers: unsafe if any of those that decide says so."""

    members: tuple[Member[Item], ...]

    def score(self, items: Sequence[Item]) -> dict[str, np.ndarray]:
        """Each member's scores, centred on its threshold (0.5 and more is unsafe), float32 [N]."""
        return {m.name: centre(m.labeller.score(items), m.threshold) for m in self.members}

    def decide(self, scores: dict[str, np.ndarray]) -> np.ndarray:
        """The panel's score from those of its members, float32 [N]."""
        return any_says_so([scores[member.name] for member in self.members if member.decides])

    @property
    def report(self) -> dict[str, Any]:
        """Threshold and error of each member on the calibration set."""
        return {member.name: member.report for member in self.members}


def seat(
    settings: Sequence[Any],
    calibration: Calibration[Item],
    make: Callable[[Any, Calibration[Item]], tuple[Labeller[Item], np.ndarray]],
) -> Panel[Item]:
    """A panel of what `make` builds: each labeller, and its scores of the calibration items."""
    if not any(own.decides for own in settings):
        raise SettingsError("label_safety: no labeller decides; set `decides: true` for one of each modality")
    kinds = [own.kind for own in settings]
    members = []
    for at, own in enumerate(settings):
        labeller, scores = make(own, calibration)
        name = own.kind if kinds.count(own.kind) == 1 else f"{own.kind}-{1 + kinds[:at].count(own.kind)}"
        members.append(_member(name, own, labeller, scores, calibration))
    return Panel(tuple(members))


def _member(
    name: str, own: Any, labeller: Labeller[Item], scores: np.ndarray, calibration: Calibration[Item]
) -> Member[Item]:
    try:
        threshold = (
            choose_threshold(scores, calibration.unsafe, recall=own.recall)
            if own.threshold is None
            else own.threshold
        )
    except DataError as error:
        raise DataError(f"label_safety: {name}: {error}") from None
    said = [bool(score >= threshold) for score in scores]
    report = error_report(calibration.unsafe, said, calibration.categories) | {
        "threshold": round(threshold, 6),
        "stated_recall": own.recall if own.threshold is None else None,
        "decides": own.decides,
    }
    return Member(name, labeller, threshold, own.decides, report)
