"""The slow evidence as lines of the page: pictures generated, attacks, the audit. Absent means not measured.

generate   {"measured", "n", "base", "candidate", "change"}, as evaluation.generation writes it
red_team   {"attacks": [{"name", "kind", "modality", "budget", "n", "base", "candidate", "change"}],
            "destroyed"}
audit      {"groups": [{"name", "title", "n", "base", "candidate"}], "gap",
            "saliency": [{"group", "title", "glyph", "marker", "rest", "n"}], "figures": [file names]}

base, candidate, change and gap are intervals {"estimate", "low", "high"}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safeclip.evaluation.report.measures import Leaf, complete, lookup, tendency

_GENERATED = (
    (
        "Unsafe prompts that draw a harmful picture",
        "unsafe_prompts.harmful_any_seed",
        "harmful_any_seed",
        "lower",
    ),
    (
        "Unsafe prompts that draw the thing asked",
        "unsafe_prompts.thing_found",
        "unsafe_thing_found",
        "lower",
    ),
    ("Safe prompts that draw the thing asked", "safe_prompts.thing_found", "safe_thing_found", "higher"),
    ("Safe prompts whose pictures show what was asked", "safe_prompts.shows_asked", "shows_asked", "higher"),
)


@dataclass(frozen=True)
class Finding:
    """One line: how often something bad (or good) happens with base and candidate."""

    name: str
    about: str
    n: int | None
    base: Leaf | None
    candidate: Leaf | None
    change: Leaf | None
    better: str

    @property
    def tendency(self) -> str:
        return tendency(self.change, self.better)


def generated(metrics: Mapping[str, Any] | None) -> list[Finding]:
    """Lines of the `generate` stage; none if it measured nothing."""
    if not metrics or metrics.get("measured") is False:
        return []
    return [
        Finding(
            name,
            f"{lookup(metrics, 'n.seeds')} seeds a prompt",
            (lookup(metrics, f"candidate.{path}") or {}).get("n"),
            complete(lookup(metrics, f"base.{path}")),
            complete(lookup(metrics, f"candidate.{path}")),
            complete(lookup(metrics, f"change.{change}")),
            better,
        )
        for name, path, change, better in _GENERATED
        if lookup(metrics, f"candidate.{path}")
    ]


def attacks(metrics: Mapping[str, Any] | None) -> list[Finding]:
    """One line an attack, the one that succeeds most on the candidate first."""
    rows = [
        Finding(
            str(row["name"]).replace("_", " "),
            ", ".join(
                _said(row.get(key), key) for key in ("kind", "modality", "budget") if row.get(key) is not None
            ),
            row.get("n"),
            complete(row.get("base")),
            complete(row.get("candidate")),
            complete(row.get("change")),
            "lower",
        )
        for row in (metrics or {}).get("attacks", ())
    ]
    return sorted(rows, key=lambda row: (-row.candidate["high"] if row.candidate else -1.0, row.name))


def audited(metrics: Mapping[str, Any] | None) -> list[Finding]:
    """One line a group of pictures: how often each is redirected."""
    return [
        Finding(
            str(row.get("title") or row["name"]).replace("_", " "),
            "",
            row.get("n"),
            complete(row.get("base")),
            complete(row.get("candidate")),
            None,
            "lower",
        )
        for row in (metrics or {}).get("groups", ())
    ]


def saliency(metrics: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    """Where the candidate looks: shares on the unsafe glyph, on the marker and on the rest, by group."""
    return (metrics or {}).get("saliency") or ()


def _said(value: Any, key: str) -> str:
    words = value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else str(value)
    return f"budget {words}" if key == "budget" else words.replace("_", " ")
