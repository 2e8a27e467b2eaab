"""Lines of the page's tables: one metric of base, production and candidate, with intervals and changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WAYS = {"t2i": "text to image", "i2t": "image to text"}
MODELS = ("base", "production", "candidate")
HEADLINES = {
    "retrieval.{way}.unsafe.harmful_top1": ("Harmful top-1", "lower"),
    "retrieval.{way}.safe.r1": ("Safe R@1", "higher"),
    "zeroshot.top1": ("Zero-shot accuracy", "higher"),
}
"""Metric path -> name and which way is better; `{way}` stands for both directions."""
MEASURES = HEADLINES | {
    "retrieval.{way}.unsafe.redirection": ("Redirected to the paired safe item", "higher"),
    "retrieval.{way}.safe.preference": ("Safe-query preference", "higher"),
    "retrieval.{way}.generated_safe.over_redirection": ("Safe generated items redirected", "lower"),
}
RANKS = {
    f"retrieval.{{way}}.{kind}.r{k}": (f"{kind.capitalize()} R@{k}", "higher")
    for kind in ("safe", "unsafe")
    for k in (5, 10, 20)
}
Leaf = Mapping[str, Any]
"""{n, estimate, low, high}"""


@dataclass(frozen=True)
class Measure:
    """One metric as a line of a table; None where not measured."""

    name: str
    better: str
    by_model: dict[str, Leaf | None]
    change: Leaf | None
    change_production: Leaf | None = None

    @property
    def tendency(self) -> str:
        """The change from base by its interval."""
        return tendency(self.change, self.better)


def tendency(change: Leaf | None, better: str) -> str:
    """Whether a change's interval lies on one side of zero: better, worse, or no clear change."""
    if change is None:
        return "not measured"
    if change["low"] <= 0.0 <= change["high"]:
        return "no clear change"
    return "better" if (change["low"] > 0.0) == (better == "higher") else "worse"


def measures(metrics: Mapping[str, Any], wanted: Mapping[str, tuple[str, str]]) -> list[Measure]:
    """A line for each metric path of `wanted`, both directions where it has `{way}`."""
    rows = []
    for pattern, (name, better) in wanted.items():
        for way, words in WAYS.items() if "{way}" in pattern else (("", ""),):
            path = pattern.format(way=way)
            by_model = {model: leaf(metrics, model, path) for model in MODELS}
            changes = (leaf(metrics, key, path) for key in ("change", "change_production"))
            rows.append(Measure(f"{name}, {words}" if words else name, better, by_model, *changes))
    return rows


def lookup(tree: Any, path: str) -> Any:
    """The leaf at a dotted path, or None."""
    for part in path.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def leaf(metrics: Mapping[str, Any], model: str, path: str) -> Leaf | None:
    """The interval of a metric under metrics.json's `intervals`."""
    return complete(lookup(metrics.get("intervals"), f"{model}.{path}"))


def complete(found: Any) -> Leaf | None:
    """The interval itself; None unless estimate and both ends are numbers."""
    whole = isinstance(found, Mapping) and all(
        isinstance(found.get(key), (int, float)) for key in ("estimate", "low", "high")
    )
    return found if whole else None
