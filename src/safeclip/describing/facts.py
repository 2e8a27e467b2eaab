"""What a data folder holds, as plain numbers; no caption, no time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from safeclip.errors import DataError
from safeclip.guard import load_guard
from safeclip.records import LABELS, QUADRUPLETS, SPLITS, read_columns
from safeclip.synthesis.captions import SafeCaption, load_captions
from safeclip.synthesis.pairs import load_pairs
from safeclip.taxonomy import load_taxonomy

DATASET = Path("results/validate_data/dataset")
_COUNTED = ("id", "split", "categories", "text_label", "image_label")


def describe_folder(folder: Path) -> dict[str, Any]:
    """Captions, splits, lengths, pictures, categories, pairs and zero-shot set of a data folder."""
    captions = load_captions(folder / "captions.jsonl")
    taxonomy = load_taxonomy(folder / "taxonomy.yaml")
    pairs = load_pairs(folder / "curated_pairs.jsonl", load_guard(), taxonomy)
    return {
        "captions": len(captions),
        "splits": {split: sum(row.split == split for row in captions) for split in SPLITS},
        "words": {split: _lengths([row for row in captions if row.split == split]) for split in SPLITS},
        "pictures": {
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
        "zeroshot": _zeroshot(folder / "zeroshot.parquet"),
        "import": _import_report(folder / "import_report.jsonl"),
    }


def describe_rows(dataset: Path) -> dict[str, Any] | None:
    """The validated quadruplets: rows, label states and categories by split; None if there are none yet."""
    schema = pa.schema([QUADRUPLETS.field(name) for name in _COUNTED])
    found = {split: sorted(dataset.glob(f"{split}-*.parquet")) for split in SPLITS}
    if not any(found.values()):
        return None
    rows = [
        row for paths in found.values() for path in paths for row in read_columns(path, schema).to_pylist()
    ]
    states = Counter((row["text_label"], row["image_label"]) for row in rows)
    return {
        "rows": {split: sum(row["split"] == split for row in rows) for split in SPLITS},
        "states": {f"text {text}, image {image}": states[text, image] for text in LABELS for image in LABELS},
        "categories": dict(sorted(Counter(name for row in rows for name in row["categories"]).items())),
    }


def histogram(captions: Sequence[SafeCaption]) -> dict[int, int]:
    """Captions by number of words, shortest first."""
    return dict(sorted(Counter(len(row.caption.split()) for row in captions).items()))


def _lengths(captions: Sequence[SafeCaption]) -> dict[str, float] | None:
    if not captions:
        return None
    words = np.array([len(row.caption.split()) for row in captions])
    low, median, high = np.percentile(words, [0, 50, 95])
    return {"least": float(low), "median": float(median), "p95": float(high), "most": float(words.max())}


def _zeroshot(path: Path) -> dict[str, int]:
    labels = read_columns(path, pa.schema([("label", pa.string())]))["label"].to_pylist()
    return {"pictures": len(labels), "classes": len(set(labels))}


def _import_report(path: Path) -> dict[str, int] | None:
    """How many items of each outcome the import named; None if the folder was not imported."""
    if not path.is_file():
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return dict(sorted(Counter(str(json.loads(line)["outcome"]) for line in lines).items()))
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{path}: not the report of an import; import again, or remove it") from None
