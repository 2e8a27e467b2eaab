"""Describe a data folder in plain numbers, and how its captions differ from another version's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from safeclip.core.artifacts import DataFolder
from safeclip.core.errors import DataError
from safeclip.core.guard import load_guard
from safeclip.core.records import LABELS, QUADRUPLETS, SPLITS, read_columns
from safeclip.core.taxonomy import load_taxonomy
from safeclip.synthesis.captions import SafeCaption, load_captions
from safeclip.synthesis.pairs import load_pairs

_NAMED = 3  # rows of each kind of change
_LISTED = 12  # files of each kind of change
_COUNTED = ("id", "split", "categories", "text_label", "image_label")


def describe_folder(folder: Path) -> dict[str, Any]:
    """Count captions, splits, lengths, images, categories, pairs and zero-shot images of a data folder."""
    files = DataFolder(folder)
    captions = load_captions(files.captions)
    taxonomy = load_taxonomy(files.taxonomy)
    labels = read_columns(files.zeroshot, pa.schema([("label", pa.string())]))["label"].to_pylist()
    pairs = load_pairs(files.curated_pairs, load_guard(), taxonomy)
    return {
        "captions": len(captions),
        "splits": {split: sum(row.split == split for row in captions) for split in SPLITS},
        "words": {split: _lengths([row for row in captions if row.split == split]) for split in SPLITS},
        "images": {
            "files": sum(row.image is not None for row in captions),
            "missing": sum(row.image is not None and not (folder / row.image).is_file() for row in captions),
            "drawn": sum(row.image is None for row in captions),
        },
        "curated_pairs": len(pairs),
        "categories": {
            name: {
                "phrases": sum(name in phrase.categories for phrase in taxonomy.phrases),
                "pairs": sum(name in pair.categories for pair in pairs),
            }
            for name in taxonomy.categories
        },
        "zeroshot": {"images": len(labels), "classes": len(set(labels))},
        "import": _import_report(files.import_report),
    }


def describe_rows(dataset: Path) -> dict[str, Any] | None:
    """Count the validated quadruplets by split, label states and category; None if there are none yet."""
    schema = pa.schema([QUADRUPLETS.field(name) for name in _COUNTED])
    shards = {split: sorted(dataset.glob(f"{split}-*.parquet")) for split in SPLITS}
    if not any(shards.values()):
        return None
    rows = [
        row for paths in shards.values() for path in paths for row in read_columns(path, schema).to_pylist()
    ]
    states = Counter((row["text_label"], row["image_label"]) for row in rows)
    return {
        "rows": {split: sum(row["split"] == split for row in rows) for split in SPLITS},
        "states": {f"text {text}, image {image}": states[text, image] for text in LABELS for image in LABELS},
        "categories": dict(sorted(Counter(name for row in rows for name in row["categories"]).items())),
    }


def histogram(captions: Sequence[SafeCaption]) -> dict[int, int]:
    """Count captions by number of words, shortest first."""
    return dict(sorted(Counter(len(row.caption.split()) for row in captions).items()))


def _lengths(captions: Sequence[SafeCaption]) -> dict[str, float] | None:
    if not captions:
        return None
    words = np.array([len(row.caption.split()) for row in captions])
    low, median, high = np.percentile(words, [0, 50, 95])
    return {"least": float(low), "median": float(median), "p95": float(high), "most": float(words.max())}


def _import_report(path: Path) -> dict[str, int] | None:
    """Count the remarks of the import by outcome; None if the folder was not imported."""
    if not path.is_file():
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return dict(sorted(Counter(str(json.loads(line)["outcome"]) for line in lines).items()))
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{path}: not the report of an import; import again, or remove it") from None


@dataclass(frozen=True)
class CaptionChanges:
    """Ids of rows that differ, sorted.

    `moved` changed their split, `reworded` their caption, `repainted` their image.
    """

    added: list[str]
    removed: list[str]
    moved: list[str]
    reworded: list[str]
    repainted: list[str]

    @property
    def parts(self) -> dict[str, list[str]]:
        return {name: ids for name, ids in vars(self).items() if ids}


def compare(before: Sequence[SafeCaption], now: Sequence[SafeCaption]) -> CaptionChanges:
    """Pair rows by id and list what differs."""
    old, new = ({row.id: row for row in rows} for rows in (before, now))
    both = sorted(set(old) & set(new))
    return CaptionChanges(
        added=sorted(set(new) - set(old)),
        removed=sorted(set(old) - set(new)),
        moved=[row for row in both if old[row].split != new[row].split],
        reworded=[row for row in both if old[row].caption != new[row].caption],
        repainted=[
            row
            for row in both
            if (old[row].image, old[row].image_sha256) != (new[row].image, new[row].image_sha256)
        ],
    )


def change_lines(
    before: Sequence[SafeCaption] | None, now: Sequence[SafeCaption], files: Mapping[str, Sequence[str]]
) -> list[str]:
    """Say what changed: rows by number with the first ids, then files and outputs."""
    lines = ["no captions there: all of this is new"] if before is None else []
    for what, ids in compare(before or (), now).parts.items():
        more = " …" if len(ids) > _NAMED else ""
        lines.append(f"{len(ids):,} rows {what}: {', '.join(ids[:_NAMED])}{more}")
    for what, paths in files.items():
        lines.append(f"{what}: {', '.join(paths[:_LISTED])}{' …' if len(paths) > _LISTED else ''}")
    return lines


def summary_lines(
    name: str,
    facts: Mapping[str, Any],
    rows: Mapping[str, Any] | None,
    revision: str,
    changes: Sequence[str],
) -> list[str]:
    """Write the numbers of a data set as lines for a terminal: counts and ids, never a caption."""
    images, zeroshot = facts["images"], facts["zeroshot"]
    lines = [f"{name}: {facts['captions']:,} safe captions, {facts['curated_pairs']} curated pairs"]
    lines += [_split(split, count, facts["words"][split]) for split, count in facts["splits"].items()]
    lines.append(f"images      {images['files']:,} files, {images['drawn']:,} rows without one")
    if images["missing"]:
        lines.append(f"            {images['missing']:,} files are missing; pull the data folder")
    shown = f"{zeroshot['images']:,} images, {zeroshot['classes']} classes"
    lines.append(
        f"zero-shot   {shown if zeroshot['images'] else 'none: not measured, nothing passes the gate'}"
    )
    if facts["import"] is not None:
        report = ", ".join(f"{count} {outcome}" for outcome, count in facts["import"].items()) or "no remarks"
        lines.append(f"import      {report} (import_report.jsonl)")
    made = rows["categories"] if rows is not None else None
    categories = [_category(kind, numbers, made) for kind, numbers in facts["categories"].items()]
    lines.append(f"categories  {', '.join(categories)}")
    if rows is not None:
        sizes = ", ".join(f"{split} {count:,}" for split, count in rows["rows"].items())
        lines.append(f"quadruplets {sizes}")
        lines += [f"            {state}: {count:,}" for state, count in rows["states"].items()]
    lines.append(f"since {revision}:" + ("" if changes else " nothing changed"))
    return lines + [f"  {change}" for change in changes]


def _split(split: str, count: int, words: Mapping[str, float] | None) -> str:
    if words is None:
        return f"{split:11} 0"
    ends = f"{words['least']:.0f} to {words['most']:.0f} words"
    return f"{split:11} {count:,}: {ends}, median {words['median']:.0f}, 95 % {words['p95']:.0f}"


def _category(name: str, numbers: Mapping[str, int], made: Mapping[str, int] | None) -> str:
    rows = f", {made.get(name, 0):,} rows" if made is not None else ""
    return f"{name} ({numbers['phrases']} phrases{rows})"
