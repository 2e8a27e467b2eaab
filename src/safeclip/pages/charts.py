"""Small charts as inline SVG: no script, no network, readable in both colour schemes and in print.

Each is an image with a title for screen readers; the page gives the same numbers in a table beside it.
Coordinates are pixels of the view box. Colours come from the classes `c1` ... `c4` in style.css.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 560, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 40


@dataclass(frozen=True)
class Series:
    """Points of one line or one set of bars, x ascending."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class _Axes:
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        span = (self.x_high - self.x_low) or 1.0
        return _LEFT + (value - self.x_low) / span * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        span = (self.y_high - self.y_low) or 1.0
        return _HEIGHT - _BOTTOM - (value - self.y_low) / span * (_HEIGHT - _TOP - _BOTTOM)


def lines(series: Sequence[Series], *, title: str, x_label: str, y_from_zero: bool = False) -> Markup:
    """One line a series over a shared pair of axes; an empty Markup if nothing is to be drawn."""
    series = [one for one in series if len(one.x)]
    if not series:
        return Markup("")
    x_ticks, y_ticks = _scales(series, y_from_zero)
    first, last = min(min(one.x) for one in series), max(max(one.x) for one in series)
    axes = _Axes(first, last, y_ticks[0], y_ticks[-1])
    body = _grid(axes, [tick for tick in x_ticks if first <= tick <= last], y_ticks, x_label)
    for index, one in enumerate(series):
        points = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in zip(one.x, one.y, strict=True))
        body += f'<polyline class="line c{index % 4 + 1}" points="{points}"/>'
    return _figure(body, title, [one.name for one in series])


def bars(series: Sequence[Series], *, title: str, x_label: str) -> Markup:
    """A histogram: bars of each series side by side at every whole x."""
    series = [one for one in series if len(one.x)]
    if not series:
        return Markup("")
    x_ticks, y_ticks = _scales(series, True)
    low, high = min(min(s.x) for s in series), max(max(s.x) for s in series)
    axes = _Axes(low - 0.5, high + 0.5, 0.0, y_ticks[-1])
    body = _grid(axes, [tick for tick in x_ticks if low <= tick <= high], y_ticks, x_label)
    width = 0.8 * (axes.x(low + 1) - axes.x(low)) / len(series)
    for index, one in enumerate(series):
        for x, y in zip(one.x, one.y, strict=True):
            left = axes.x(x) + (index - len(series) / 2) * width
            body += (
                f'<rect class="bar c{index % 4 + 1}" x="{left:.1f}" y="{axes.y(y):.1f}" '
                f'width="{width:.1f}" height="{axes.y(0) - axes.y(y):.1f}"/>'
            )
    return _figure(body, title, [one.name for one in series])


def shares(parts: Mapping[str, float | None], *, title: str) -> Markup:
    """One bar of full width cut into shares of 1; parts that were not measured are left out."""
    body, start = "", 0.0
    for index, (name, share) in enumerate(parts.items()):
        if share:
            place = f'x="{start:.2f}" y="0" width="{100 * share:.2f}" height="8"'
            told = f"<title>{escape(name)}: {100 * share:.1f} %</title>"
            body += f'<rect class="bar c{index % 4 + 1}" {place}>{told}</rect>'
            start += 100 * share
    return Markup(
        f'<svg class="shares" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title)}">{body}</svg>'
    )


def interval(
    estimate: float, low: float, high: float, bound: float | None, *, good: bool, title: str
) -> Markup:
    """A dot with its interval as a whisker, and the bound as a tick that it must not cross."""
    shown = [low, high, estimate] + ([] if bound is None else [bound])
    start, span = min(shown), (max(shown) - min(shown)) or 1.0

    def at(value: float) -> float:
        return 6 + 108 * (value - start) / span

    tick = (
        ""
        if bound is None
        else f'<line class="bound" x1="{at(bound):.1f}" x2="{at(bound):.1f}" y1="2" y2="18"/>'
    )
    return Markup(
        f'<svg class="interval {"good" if good else "bad"}" viewBox="0 0 120 20" role="img" '
        f'aria-label="{escape(title)}"><line x1="{at(low):.1f}" x2="{at(high):.1f}" y1="10" y2="10"/>'
        f'<circle cx="{at(estimate):.1f}" cy="10" r="3.5"/>{tick}</svg>'
    )


def _scales(series: Sequence[Series], y_from_zero: bool) -> tuple[list[float], list[float]]:
    xs = [x for one in series for x in one.x]
    ys = [y for one in series for y in one.y] + ([0.0] if y_from_zero else [])
    return ticks(min(xs), max(xs)), ticks(min(ys), max(ys))


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that enclose low to high, about `about` of them."""
    span = (high - low) or abs(high) or 1.0
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def _grid(axes: _Axes, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str) -> str:
    body = ""
    for value in y_ticks:
        y = axes.y(value)
        body += f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        body += f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>'
    for value in x_ticks:
        x = axes.x(value)
        body += f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{_short(value)}</text>'
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return body + f'<text x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'


def _short(value: float) -> str:
    return f"{value:,.10g}".replace("-", "−")


def _figure(body: str, title: str, names: Sequence[str]) -> Markup:
    keys = "".join(
        f'<li><span class="key c{index % 4 + 1}"></span>{escape(name)}</li>'
        for index, name in enumerate(names)
    )
    legend = f'<ul class="legend">{keys}</ul>'
    return Markup(
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{legend}'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{body}</svg></figure>'
    )
