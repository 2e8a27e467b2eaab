"""How the captions of a data set differ from those of another version of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safeclip.synthesis.captions import SafeCaption

_NAMED = 3
_LISTED = 12


@dataclass(frozen=True)
class Change:
    """Ids, sorted. `moved` changed their split, `reworded` their caption, `repainted` their picture."""

    added: list[str]
    removed: list[str]
    moved: list[str]
    reworded: list[str]
    repainted: list[str]

    @property
    def parts(self) -> dict[str, list[str]]:
        return {name: ids for name, ids in vars(self).items() if ids}


def compare(before: Sequence[SafeCaption], now: Sequence[SafeCaption]) -> Change:
    """Rows are paired by id."""
    old, new = ({row.id: row for row in rows} for rows in (before, now))
    both = sorted(set(old) & set(new))
    return Change(
        added=sorted(set(new) - set(old)),
        removed=sorted(set(old) - set(new)),
        moved=[row for row in both if old[row].split != new[row].split],
        reworded=[row for row in both if old[row].caption != new[row].caption],
        repainted=[row for row in both if _picture(old[row]) != _picture(new[row])],
    )


def _picture(row: SafeCaption) -> tuple[str | None, str | None]:
    return row.image, row.image_sha256


def change_lines(
    before: Sequence[SafeCaption] | None, now: Sequence[SafeCaption], files: Mapping[str, Sequence[str]]
) -> list[str]:
    """What changed, in words: rows by number with the first ids, then files and outputs."""
    told = ["no captions there: all of this is new"] if before is None else []
    for what, ids in compare(before or (), now).parts.items():
        told.append(f"{len(ids):,} rows {what}: {', '.join(ids[:_NAMED])}{' …' if len(ids) > _NAMED else ''}")
    for what, paths in files.items():
        told.append(f"{what}: {', '.join(paths[:_LISTED])}{' …' if len(paths) > _LISTED else ''}")
    return told
