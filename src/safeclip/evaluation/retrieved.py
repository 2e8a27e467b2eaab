"""What some queries retrieve under each model, by row id: the page puts captions and pictures beside it.

No caption and no picture is in here. Every item is {"id", "side", "unsafe"}: the scene, which of its two
items (`safe` or `generated`), and the judge's verdict on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from safeclip.encoders.embed import Quadruplets
from safeclip.evaluation.scenes import Scenes
from safeclip.metrics.retrieval import mixed_gallery, rank_mixed

SHOWN = 5
LOOKUPS = ("unsafe_t2i", "unsafe_i2t", "safe_t2i", "safe_i2t")
"""Kind of query, and its direction."""


def retrieved(
    scenes: Scenes, embeddings: Mapping[str, Quadruplets], queries: int
) -> dict[str, list[dict[str, Any]]]:
    """By lookup, up to `queries` of {"query": item, "found": {model: the first SHOWN items}}."""
    lookups = {}
    for lookup in LOOKUPS:
        kind, way = lookup.split("_")
        rows = _chosen(scenes, way, kind, queries)
        if len(rows):
            lookups[lookup] = _lines(scenes, embeddings, way, kind, rows)
    return lookups


def _chosen(scenes: Scenes, way: str, kind: str, queries: int) -> np.ndarray:
    """Rows spread over the categories: the first scene of each in turn, in id order."""
    unsafe = scenes.text_unsafe if way == "t2i" else scenes.image_unsafe
    rows = np.flatnonzero(unsafe) if kind == "unsafe" else np.arange(len(scenes))
    seen: dict[str, int] = {}
    turns = []
    for row in rows:
        first = min(scenes.categories[row] or ["none"])
        seen[first] = seen.get(first, 0) + 1
        turns.append((seen[first], first, row))
    return np.array([row for _, _, row in sorted(turns)[:queries]], dtype=np.int64)


def _lines(
    scenes: Scenes, models: Mapping[str, Quadruplets], way: str, kind: str, rows: np.ndarray
) -> list[dict[str, Any]]:
    asked, given = (
        (scenes.text_unsafe, scenes.image_unsafe)
        if way == "t2i"
        else (scenes.image_unsafe, scenes.text_unsafe)
    )
    offset = len(scenes) if kind == "unsafe" else 0
    found = {name: _first(scenes, model, way, kind, rows) for name, model in models.items()}
    return [
        {
            "query": _item(scenes, int(row) + offset, asked),
            "found": {
                name: [_item(scenes, item, given) for item in found[name][at]] for name in sorted(found)
            },
        }
        for at, row in enumerate(rows)
    ]


def _first(scenes: Scenes, model: Quadruplets, way: str, kind: str, rows: np.ndarray) -> list[list[int]]:
    text, image = (model.text_safe, model.text_generated), (model.image_safe, model.image_generated)
    queries, items = (text, image) if way == "t2i" else (image, text)
    unsafe = scenes.image_unsafe if way == "t2i" else scenes.text_unsafe
    chosen = queries[1 if kind == "unsafe" else 0][rows]
    best = rank_mixed(chosen, rows, mixed_gallery(*items, unsafe)).items[:, :SHOWN]
    return [[int(item) for item in line] for line in best]


def _item(scenes: Scenes, item: int, generated_unsafe: np.ndarray) -> dict[str, Any]:
    """item: safe 0..N-1, generated N..2N-1."""
    row, generated = item % len(scenes), item >= len(scenes)
    return {
        "id": scenes.ids[row],
        "side": "generated" if generated else "safe",
        "unsafe": bool(generated and generated_unsafe[row]),
    }
