"""How far a data set has moved from the one that was last accepted.

The accepted one is known by a few distributions in a small file under version control (`data_baseline.json`):
a comparison with whatever ran before on some machine would not give the same bytes twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import fsum
from pathlib import Path
from typing import Any

from safeclip.errors import DataError

BASELINE = Path("data_baseline.json")
Distributions = dict[str, dict[str, float]]


def distributions(summary: Mapping[str, Any]) -> Distributions:
    """Shares of label states, categories and caption lengths in a data set, from its summary."""
    rows = {split: count for split, count in summary["splits"].items() if count}
    states: dict[str, float] = {}
    for split, count in rows.items():
        for state, share in summary["label_states"][split].items():
            states[state] = states.get(state, 0.0) + share * count
    categories: dict[str, float] = {}
    for counts in summary["categories"].values():
        for name, count in counts.items():
            categories[name] = categories.get(name, 0.0) + count
    lengths = {f"{side} caption lengths": dict(counts) for side, counts in summary["caption_words"].items()}
    found = {"label states": states, "categories": categories} | lengths
    return {name: _shares(counts) for name, counts in found.items()}


def _shares(counts: Mapping[str, float]) -> dict[str, float]:
    total = sum(counts.values())
    return {name: round(count / total, 6) for name, count in sorted(counts.items())} if total else {}


def drift(before: Distributions, now: Distributions) -> dict[str, float]:
    """Total variation distance of each distribution that both have: 0 the same, 1 nothing in common.

    Summed exactly, since the order of a set differs from run to run.
    """
    return {
        name: round(fsum(abs(now[name].get(k, 0) - shares.get(k, 0)) for k in {*now[name], *shares}) / 2, 6)
        for name, shares in sorted(before.items())
        if shares and now.get(name)
    }


def read_baseline(path: Path = BASELINE) -> Distributions:
    """The accepted data set's distributions; empty if none was accepted yet (the file holds `{}`)."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return {name: {k: float(v) for k, v in shares.items()} for name, shares in held.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        why = str(error).splitlines()[0][:80]
        raise DataError(f"{path}: not readable ({why}); restore it, or write {{}} into it") from None
