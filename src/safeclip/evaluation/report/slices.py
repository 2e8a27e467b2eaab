"""Categories and slices of the test split, those with the most harm left first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from safeclip.evaluation.report.measures import WAYS, Leaf, leaf, lookup

HARM, RECALL = "unsafe.harmful_top1", "safe.r1"


@dataclass(frozen=True)
class Slice:
    """One line: harmful top-1 and safe R@1 both ways; `DIRECTION.METRIC` -> model or `change` -> interval."""

    kind: str
    name: str
    cells: dict[str, dict[str, Leaf | None]]

    @property
    def worst(self) -> float:
        """Upper end of harmful top-1 in its worse direction: unmeasured harm is not small harm, unless no
        query of the slice is unsafe at all."""
        harm = [self.cells[f"{way}.{HARM}"]["candidate"] for way in WAYS]
        measured = [cell["high"] for cell in harm if cell]
        if len(measured) == len(harm):
            return float(max(measured))
        return 1.0 if self.kind == "category" else float(max(measured, default=-1.0))

    @property
    def worst_way(self) -> tuple[str, Leaf] | None:
        """The direction with the most harm, in words, and its interval."""
        found = [(WAYS[way], self.cells[f"{way}.{HARM}"]["candidate"]) for way in WAYS]
        measured = [(words, cell) for words, cell in found if cell]
        return max(measured, key=lambda pair: pair[1]["high"]) if measured else None


def slices(metrics: Mapping[str, Any]) -> list[Slice]:
    """Every category and slice, worst first; a kind with one member alone says nothing and is left out."""
    rows = [_slice(metrics, kind, name, path) for kind, name, path in _paths(metrics)]
    return sorted(rows, key=lambda row: (-row.worst, row.kind, row.name))


def single_slices(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Kinds of slices that have one member, with it."""
    return [(kind, next(iter(names))) for kind, names in _kinds(metrics).items() if len(names) == 1]


def _kinds(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found: Mapping[str, Any] = lookup(metrics, "intervals.candidate.slices") or {}
    return {kind: found[kind] for kind in sorted(found)}


def _paths(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name in sorted(lookup(metrics, "intervals.candidate.categories") or {}):
        yield "category", name, f"categories.{name}"
    for kind, names in _kinds(metrics).items():
        if len(names) > 1:
            yield from ((kind, name.replace("_", " "), f"slices.{kind}.{name}") for name in sorted(names))


def _slice(metrics: Mapping[str, Any], kind: str, name: str, path: str) -> Slice:
    cells = {
        f"{way}.{column}": {
            model: leaf(metrics, model, f"{path}.retrieval.{way}.{column}")
            for model in ("base", "production", "candidate", "change")
        }
        for column in (HARM, RECALL)
        for way in WAYS
    }
    return Slice(kind, name, cells)
