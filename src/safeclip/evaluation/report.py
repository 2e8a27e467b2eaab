"""The reviewer's page: the verdict first, then why, then what stands behind it. It loads nothing.

It only arranges numbers that `gate`, `evaluate`, `validate_data` and `finetune` wrote. What was not measured
says so. The grids come blurred from `evaluate`; there is no unblurred picture in the page to uncover.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from safeclip.pages.charts import Series, interval, lines
from safeclip.pages.pictures import data_uri
from safeclip.pages.render import number, render

_TEMPLATE = Path(__file__).with_name("report.html.j2")
WAYS = {"t2i": "text to image", "i2t": "image to text"}
MODELS = ("base", "production", "candidate")
GRIDS = {
    "unsafe_t2i": "What unsafe captions retrieve from safe and generated pictures together",
    "unsafe_i2t": "What unsafe pictures retrieve from safe and generated captions together",
    "safe_t2i": "What safe captions retrieve from safe pictures",
    "safe_i2t": "What safe pictures retrieve from safe captions",
}
_HEADLINES = {
    "retrieval.{way}.unsafe.harmful_top1": ("Harmful top-1", "lower"),
    "retrieval.{way}.unsafe.redirection": ("Redirected to the paired safe item", "higher"),
    "retrieval.{way}.safe.r1": ("Safe R@1", "higher"),
    "retrieval.{way}.safe.preference": ("Safe-query preference", "higher"),
    "retrieval.{way}.generated_safe.over_redirection": (
        "Safe generated items redirected by mistake",
        "lower",
    ),
}
_DETAILS = {
    f"retrieval.{{way}}.{kind}.r{k}": (f"{kind.capitalize()} R@{k}", "higher")
    for kind in ("safe", "unsafe")
    for k in (5, 10, 20)
}
_ZEROSHOT = {"zeroshot.top1": ("Zero-shot accuracy", "higher")}
_CATEGORY_COLUMNS = ("unsafe.harmful_top1", "safe.r1")


@dataclass(frozen=True)
class Measure:
    """One metric as a line of a table; an interval is {n, estimate, low, high}, None where not measured."""

    name: str
    better: str
    by_model: dict[str, Mapping[str, Any] | None]
    change: Mapping[str, Any] | None
    change_production: Mapping[str, Any] | None = None

    @property
    def tendency(self) -> str:
        """Whether the change's interval lies on one side of zero: better, worse, or no clear change."""
        if self.change is None:
            return "not measured"
        if self.change["low"] <= 0.0 <= self.change["high"]:
            return "no clear change"
        return "better" if (self.change["low"] > 0.0) == (self.better == "higher") else "worse"


def make_report(
    *,
    title: str,
    verdict: Mapping[str, Any],
    metrics: Mapping[str, Any],
    data: Mapping[str, Any],
    history: Sequence[Mapping[str, float | None]],
    grids: Mapping[str, bytes],
) -> str:
    """HTML of verdict.json, metrics.json, the data summary, history.csv's lines and grids (PNG by name)."""
    rules = [dict(rule, chart=_whisker(rule), outcome=_outcome(rule)) for rule in verdict["rules"]]
    return render(
        _TEMPLATE,
        title=title,
        verdict=verdict,
        rules=sorted(rules, key=lambda rule: bool(rule["passed"])),
        failed=[rule["id"] for rule in rules if not rule["passed"]],
        models=[model for model in MODELS if model != "production" or metrics.get("production")],
        tiles=measures(metrics, {**_pick("harmful_top1", "safe.r1"), **_ZEROSHOT}),
        headlines=measures(metrics, {**_HEADLINES, **_ZEROSHOT}),
        details=measures(metrics, _DETAILS),
        categories=worst_categories(metrics),
        curves=learning_curves(history),
        grids=[
            (name, text, data_uri(grids[name]), png_size(grids[name]))
            for name, text in GRIDS.items()
            if name in grids
        ],
        n=metrics.get("n") or {},
        data=data,
        digests=sorted((verdict.get("digests") or {}).items()),
    )


def measures(metrics: Mapping[str, Any], wanted: Mapping[str, tuple[str, str]]) -> list[Measure]:
    """A line for each metric path; `{way}` in a path stands for both directions."""
    rows = []
    for pattern, (name, better) in wanted.items():
        for way, words in WAYS.items() if "{way}" in pattern else (("", ""),):
            path = pattern.format(way=way)
            by_model = {model: _interval(metrics, model, path) for model in MODELS}
            changes = (_interval(metrics, key, path) for key in ("change", "change_production"))
            rows.append(Measure(f"{name}, {words}" if words else name, better, by_model, *changes))
    return rows


def _pick(*endings: str) -> dict[str, tuple[str, str]]:
    return {path: words for path, words in _HEADLINES.items() if path.endswith(endings)}


def lookup(tree: Any, path: str) -> Any:
    """The leaf at a dotted path, or None."""
    for part in path.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _interval(metrics: Mapping[str, Any], model: str, path: str) -> Mapping[str, Any] | None:
    """The interval of a metric; None unless estimate and both ends are numbers."""
    found = lookup(metrics.get("intervals"), f"{model}.{path}")
    complete = isinstance(found, Mapping) and all(
        isinstance(found.get(key), (int, float)) for key in ("estimate", "low", "high")
    )
    return found if complete else None


def worst_categories(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line a category: harmful top-1 and safe R@1 both ways, most harm (interval's upper end) first."""
    names = lookup(metrics, "intervals.candidate.categories") or {}
    rows = [_category(metrics, name) for name in sorted(names)]
    return sorted(rows, key=lambda row: (-row["worst"], row["name"]))


def _category(metrics: Mapping[str, Any], name: str) -> dict[str, Any]:
    cells = {
        f"{way}.{column}": {
            model: _interval(metrics, model, f"categories.{name}.retrieval.{way}.{column}")
            for model in ("base", "candidate")
        }
        for column in _CATEGORY_COLUMNS
        for way in WAYS
    }
    harm = [cells[f"{way}.unsafe.harmful_top1"]["candidate"] for way in WAYS]
    worst = max((cell["high"] if cell else 1.0) for cell in harm)  # unmeasured harm is not small harm
    return {"name": name, "cells": cells, "worst": worst}


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
