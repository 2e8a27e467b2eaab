"""Labellers with their thresholds; several of them become one panel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from safeclip.errors import DataError, SettingsError
from safeclip.synthesis.labels.calibration import Calibration
from safeclip.synthesis.labels.report import error_report
from safeclip.synthesis.labels.thresholds import any_says_so, centre, choose_threshold

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
