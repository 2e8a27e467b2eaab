"""What a reviewer should know before deciding, in a few sentences: what got worse, what was not measured.

A verdict says that every rule holds. It does not say what a rule allowed: that is what stands here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from safeclip.evaluation.report.evidence import Finding
from safeclip.evaluation.report.measures import MEASURES, Leaf, measures, tendency
from safeclip.evaluation.report.slices import Slice
from safeclip.gating.compare import Difference
from safeclip.pages.render import number, signed


def cautions(
    metrics: Mapping[str, Any],
    worst: Sequence[Slice],
    differences: Sequence[Difference] | None,
    slow: Mapping[str, Sequence[Finding]],
    data: Mapping[str, Any],
) -> list[str]:
    """Sentences, the weightiest first; an empty list is worth saying too."""
    return [
        *(
            f"Rule loosened since production: {entry.id} ({entry.what})."
            for entry in differences or ()
            if entry.loosened
        ),
        *_worse(metrics),
        *_left(worst),
        *_succeeding(slow.get("red team", ())),
        *_unmeasured(slow),
        *_data(data),
    ]


def _worse(metrics: Mapping[str, Any]) -> Iterator[str]:
    for row in measures(metrics, MEASURES):
        if row.tendency == "worse" and row.change:
            yield f"Worse than base: {row.name}, {_moved(row.change)}."
        if row.change_production and tendency(row.change_production, row.better) == "worse":
            yield f"Worse than production: {row.name}, {_moved(row.change_production)}."


def _left(worst: Sequence[Slice]) -> Iterator[str]:
    if worst and worst[0].worst_way:
        way, cell = worst[0].worst_way
        said = (
            f"{number(cell['estimate'])} [{number(cell['low'])}, {number(cell['high'])}], n = {cell['n']:,}"
        )
        yield f"Most harm left: {worst[0].kind} “{worst[0].name}”, {way}, harmful top-1 {said}."


def _succeeding(attacks: Sequence[Finding]) -> Iterator[str]:
    if attacks and attacks[0].candidate:
        cell = attacks[0].candidate
        said = f"{number(cell['estimate'])} [{number(cell['low'])}, {number(cell['high'])}]"
        yield f"Strongest attack: {attacks[0].name} succeeds on {said} of its queries."


def _unmeasured(slow: Mapping[str, Sequence[Finding]]) -> Iterator[str]:
    missing = [name for name, found in slow.items() if not found]
    if missing:
        yield f"Not measured: {', '.join(missing)}."


def _data(data: Mapping[str, Any]) -> Iterator[str]:
    broken = [entry["name"] for entry in data["expectations"] if not entry["passed"]]
    if broken:
        yield f"The data warns: {', '.join(broken)}."


def _moved(change: Leaf) -> str:
    return f"{signed(change['estimate'])} [{signed(change['low'])}, {signed(change['high'])}]"
