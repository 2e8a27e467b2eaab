"""What a reviewer should know before deciding, in a few sentences: what got worse, what was not measured.

A verdict says that every rule holds. It does not say what a rule allowed: that is what stands here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from safeclip.gate.rules import Difference
from safeclip.pages.charts import Series, interval, lines
from safeclip.pages.render import data_uri, number, render, signed
from safeclip.report.figures import frontier, this_run
from safeclip.report.sections import (
    HEADLINES,
    MEASURES,
    MODELS,
    RANKS,
    Finding,
    Leaf,
    Line,
    Slice,
    attacks,
    audited,
    complete,
    generated,
    measures,
    saliency,
    single_slices,
    slices,
    tendency,
)


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


# Put the page together: the verdict first, then why, then what stands behind it.
#
# It only arranges what other stages wrote, and what was not measured says so. There is no script in it:
# hidden things are `details` and check boxes, so keyboards and screen readers work as they do everywhere.


_TEMPLATE = Path(__file__).with_name("page.html.j2")
_STYLE = Path(__file__).with_name("page.css")
_WORST = 6  # slices shown before the reader asks for all


@dataclass(frozen=True)
class Findings:
    """What the page shows. None stands for a stage that did not run.

    verdict, metrics, data: verdict.json, evaluate's metrics.json, validate_data's summary.json. history: the
    lines of history.csv. differences: the rules against production's, None where production has none on
    record. retrieved: `report.lookups.lookups`. pictures: other PNGs by name, blurred where they must be.
    points: those of release/frontier.json.
    """

    verdict: Mapping[str, Any]
    metrics: Mapping[str, Any]
    data: Mapping[str, Any]
    history: Sequence[Mapping[str, float | None]]
    production: str | None = None
    differences: Sequence[Difference] | None = None
    retrieved: Sequence[tuple[str, str, Sequence[Line]]] = ()
    points: Sequence[Mapping[str, Any]] = ()
    generate: Mapping[str, Any] | None = None
    red_team: Mapping[str, Any] | None = None
    audit: Mapping[str, Any] | None = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)


def make_report(title: str, found: Findings) -> str:
    """The page's HTML."""
    rules = [dict(rule, chart=_whisker(rule), outcome=_outcome(rule)) for rule in found.verdict["rules"]]
    worst = slices(found.metrics)
    slow = {
        "generation": generated(found.generate),
        "red team": attacks(found.red_team),
        "shortcut audit": audited(found.audit),
    }
    return render(
        _TEMPLATE,
        own_style=Markup(_STYLE.read_text(encoding="utf-8")),
        title=title,
        found=found,
        verdict=found.verdict,
        rules=sorted(rules, key=lambda rule: bool(rule["passed"])),
        failed=[rule["id"] for rule in rules if not rule["passed"]],
        models=[model for model in MODELS if model != "production" or found.metrics.get("production")],
        cautions=cautions(found.metrics, worst, found.differences, slow, found.data),
        tiles=measures(found.metrics, HEADLINES),
        headlines=measures(found.metrics, MEASURES),
        ranks=measures(found.metrics, RANKS),
        slices=worst,
        shown_slices=_WORST,
        single_slices=single_slices(found.metrics),
        curves=learning_curves(found.history),
        frontier=frontier(found.points, this_run(found.metrics)),
        slow=slow,
        gap=complete((found.audit or {}).get("gap")),
        saliency=saliency(found.audit),
        pictures=[(name, data_uri(png), png_size(png)) for name, png in sorted(found.pictures.items())],
        n=found.metrics.get("n") or {},
        data=found.data,
        digests=sorted((found.verdict.get("digests") or {}).items()),
    )


def learning_curves(history: Sequence[Mapping[str, float | None]]) -> list[Markup]:
    """Total loss by step, and validation metrics where there are any."""
    total = [_points(history, "total_loss", "total loss")]
    names = {
        "val_harmful_t2i": "harmful top-1, text to image",
        "val_harmful_i2t": "harmful top-1, image to text",
        "val_safe_r1_t2i": "safe R@1, text to image",
        "val_safe_r1_i2t": "safe R@1, image to text",
    }
    validation = [_points(history, column, name) for column, name in names.items()]
    charts = [
        lines(total, title="Training loss", x_label="step"),
        lines(validation, title="Validation, by the labels", x_label="step", y_from_zero=True),
    ]
    return [chart for chart in charts if chart]


def _points(history: Sequence[Mapping[str, float | None]], column: str, name: str) -> Series:
    found = [(line["step"], line.get(column)) for line in history]
    kept = [(float(x), float(y)) for x, y in found if x is not None and y is not None]
    return Series(name, [x for x, _ in kept], [y for _, y in kept])


def _whisker(rule: Mapping[str, Any]) -> Markup:
    low, high, estimate = rule["low"], rule["high"], rule["estimate"]
    if low is None or high is None or estimate is None or low == high:
        return Markup("")
    ends = f"{number(low)} to {number(high)}"
    said = f"estimate {number(estimate)}, interval {ends}, bound {number(rule['bound'])}"
    return interval(estimate, low, high, rule["bound"], good=bool(rule["passed"]), title=said)


def _outcome(rule: Mapping[str, Any]) -> str:
    if not rule["passed"]:
        return "failed"
    return "passed" if rule["estimate"] is not None else "not applicable"


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height from a PNG's header, so that the page does not jump while it loads."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
