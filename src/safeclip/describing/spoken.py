"""The numbers of a data set as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def lines(
    name: str,
    facts: Mapping[str, Any],
    rows: Mapping[str, Any] | None,
    revision: str,
    changes: Sequence[str],
) -> list[str]:
    """Counts and ids, never a caption."""
    pictures, zeroshot = facts["pictures"], facts["zeroshot"]
    told = [f"{name}: {facts['captions']:,} safe captions, {facts['curated_pairs']} curated pairs"]
    told += [_split(split, count, facts["words"][split]) for split, count in facts["splits"].items()]
    told.append(f"pictures    {pictures['files']:,} files, {pictures['drawn']:,} drawn by the picture book")
    if pictures["missing"]:
        told.append(f"            {pictures['missing']:,} files are missing; pull the data folder")
    shown = f"{zeroshot['pictures']:,} pictures, {zeroshot['classes']} classes"
    told.append(
        f"zero-shot   {shown if zeroshot['pictures'] else 'none: not measured, nothing passes the gate'}"
    )
    if facts["import"] is not None:
        report = ", ".join(f"{count} {outcome}" for outcome, count in facts["import"].items()) or "no remarks"
        told.append(f"import      {report} (import_report.jsonl)")
    made = rows["categories"] if rows is not None else None
    categories = [_category(kind, numbers, made) for kind, numbers in facts["categories"].items()]
    told.append(f"categories  {', '.join(categories)}")
    if rows is not None:
        told.append("quadruplets " + ", ".join(f"{split} {count:,}" for split, count in rows["rows"].items()))
        told += [f"            {state}: {count:,}" for state, count in rows["states"].items()]
    told.append(f"since {revision}:" + ("" if changes else " nothing changed"))
    return told + [f"  {change}" for change in changes]


def _split(split: str, count: int, words: Mapping[str, float] | None) -> str:
    if words is None:
        return f"{split:11} 0"
    ends = f"{words['least']:.0f} to {words['most']:.0f} words"
    return f"{split:11} {count:,}: {ends}, median {words['median']:.0f}, 95 % {words['p95']:.0f}"


def _category(name: str, numbers: Mapping[str, int], made: Mapping[str, int] | None) -> str:
    rows = f", {made.get(name, 0):,} rows" if made is not None else ""
    return f"{name} ({numbers['phrases']} phrases{rows})"
