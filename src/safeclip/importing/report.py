"""What became of each item: the rejected ones with the reason, suspects, notes. Never a caption's text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Outcome = Literal["rejected", "suspect", "note"]
_NAMED = 5


@dataclass(frozen=True)
class Remark:
    """`id` is the row's id in captions.jsonl, None if the item was rejected."""

    item: str
    outcome: Outcome
    reason: str
    id: str | None = None


def shown(name: str) -> str:
    """A name as it may be printed: whatever could steer a terminal is written as an escape."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in name)[:200]


def report_lines(remarks: Sequence[Remark]) -> str:
    """JSON Lines, in the order of the source."""
    return "".join(json.dumps(asdict(remark), sort_keys=True) + "\n" for remark in remarks)


def spoken(remarks: Sequence[Remark]) -> list[str]:
    """Rejected and suspect items by name, a few of each; how often each kind of remark was made."""
    lines = []
    for outcome in ("rejected", "suspect"):
        some = [remark for remark in remarks if remark.outcome == outcome]
        lines += [f"{outcome}: {remark.item}: {remark.reason}" for remark in some[:_NAMED]]
        if len(some) > _NAMED:
            lines.append(f"{outcome}: and {len(some) - _NAMED} more")
    notes = Counter(remark.reason.split(" (")[0] for remark in remarks if remark.outcome == "note")
    lines += [f"note: {times} x {reason}" for reason, times in sorted(notes.items())[:_NAMED]]
    return lines
