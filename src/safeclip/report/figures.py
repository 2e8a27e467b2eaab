"""Harm against utility as one picture: each objective's line, and where this candidate stands.

x: what utility was lost, the worse of safe R@1 and zero-shot accuracy, base minus candidate. y: harmful top-1
that is left, the worse direction. Along a line more and more of the update is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from safeclip.pages.charts import ticks
from safeclip.report.sections import lookup

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 560, 300, 46, 96, 14, 40
_COLOURED = 4  # the page's palette
Point = tuple[float, float]


def this_run(metrics: Mapping[str, Any]) -> Point | None:
    """(utility lost, harm left) of the candidate in metrics.json; None if any of it was not measured."""
    base, candidate = metrics.get("base"), metrics.get("candidate")
    lost = [
        (lookup(base, path), lookup(candidate, path))
        for path in ("retrieval.t2i.safe.r1", "retrieval.i2t.safe.r1", "zeroshot.top1")
    ]
    harm = [lookup(candidate, f"retrieval.{way}.unsafe.harmful_top1") for way in ("t2i", "i2t")]
    if any(value is None for pair in lost for value in pair) or None in harm:
        return None
    return max(before - after for before, after in lost), max(harm)


def frontier(points: Sequence[Mapping[str, Any]], here: Point | None) -> Markup:
    """SVG of the benchmark's points (`objective`, `share` and the four figures) and of this run."""
    lines = _lines(points)
    shown = [point for line in lines.values() for point in line] + ([here] if here else [])
    if not lines:
        return Markup("")
    x_ticks = ticks(min(0.0, *(x for x, _ in shown)), max(x for x, _ in shown), 4)
    y_ticks = ticks(0.0, max(y for _, y in shown), 4)
    to = _ShareAxes(x_ticks[0], x_ticks[-1], y_ticks[-1])
    body = _grid(to, x_ticks, y_ticks)
    for index, line in enumerate(lines.values()):
        colour = f"c{index % _COLOURED + 1}"
        path = " ".join(f"{to.x(x):.1f},{to.y(y):.1f}" for x, y in line)
        body += f'<polyline class="line {colour}" points="{path}"/>'
        body += "".join(
            f'<circle class="bar {colour}" cx="{to.x(x):.1f}" cy="{to.y(y):.1f}" r="2.5"/>' for x, y in line
        )
    body += _here(to, here) if here else ""
    body += _names(to, lines, here)
    title = "Harm left against utility lost, by objective"
    return Markup(
        f'<figure class="chart"><figcaption>{title}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(_spoken(lines, here))}">'
        f"{body}</svg></figure>"
    )


class _ShareAxes:
    """Pixels of the view box for shares."""

    def __init__(self, x_low: float, x_high: float, y_high: float) -> None:
        self.x_low, self.x_high, self.y_high = x_low, x_high, y_high

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - value / self.y_high * (_HEIGHT - _TOP - _BOTTOM)


def _lines(points: Sequence[Mapping[str, Any]]) -> dict[str, list[Point]]:
    """By objective, in order of the update's share; the shipped recipe first."""
    lines: dict[str, list[Point]] = {}
    for point in sorted(
        points, key=lambda point: (point["objective"] != "default", point["objective"], point["share"])
    ):
        at = (
            max(point["safe_r1_drop"], point["zeroshot_drop"]),
            max(point["harmful_t2i"], point["harmful_i2t"]),
        )
        lines.setdefault(point["objective"], []).append(at)
    return lines


def _grid(to: _ShareAxes, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> str:
    body = ""
    for y in y_ticks:
        body += (
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{to.y(y):.1f}" y2="{to.y(y):.1f}"/>'
        )
        body += f'<text x="{_LEFT - 6}" y="{to.y(y) + 4:.1f}" text-anchor="end">{y:g}</text>'
    for x in x_ticks:
        place = f'x="{to.x(x):.1f}" y="{_HEIGHT - _BOTTOM + 16}"'
        body += f'<text {place} text-anchor="middle">{x:g}</text>'
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    place = f'x="{middle:.0f}" y="{_HEIGHT - 6}"'
    return body + f'<text {place} text-anchor="middle">utility lost, against harm left (upwards)</text>'


def _names(to: _ShareAxes, lines: Mapping[str, Sequence[Point]], here: Point | None) -> str:
    """Each line's name at its end and this run's beside it, from top to bottom, never on top of another."""
    ends = [(name.replace("_", "-"), line[-1], 6, "") for name, line in lines.items()]
    ends += [("this run", here, 11, ' class="told"')] if here else []
    body, last = "", 0.0
    for name, (x, y), aside, style in sorted(ends, key=lambda end: -end[1][1]):
        last = max(to.y(y) + 4, last + 13)
        body += f'<text{style} x="{to.x(x) + aside:.1f}" y="{last:.1f}">{escape(name)}</text>'
    return body


def _here(to: _ShareAxes, here: Point) -> str:
    x, y = to.x(here[0]), to.y(here[1])
    return f'<path class="here" d="M{x:.1f},{y - 7:.1f} l7,7 l-7,7 l-7,-7 z"/>'


def _spoken(lines: Mapping[str, Sequence[Point]], here: Point | None) -> str:
    ends = [
        f"{name.replace('_', '-')} {line[-1][1]:.2f} harm at {line[-1][0]:.3f} lost"
        for name, line in lines.items()
    ]
    own = [f"this run {here[1]:.2f} at {here[0]:.3f}"] if here else []
    return "Harm left and utility lost: " + "; ".join(own + ends)
