"""Which pictures a model takes away from the caption that they show.

A picture is *redirected* if, among all captions of the scenes audited (safe and generated alike), another
than the one it shows comes first. A good retrained encoder redirects what is unsafe and nothing else; a rate
that follows the marker instead of the content is a shortcut.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from safeclip.audit.groups import TITLES, Group
from safeclip.audit.saliency import Explained, heat_map
from safeclip.core.errors import DataError
from safeclip.core.records import OUTCOMES
from safeclip.encoders.embed import embed_images, embed_texts
from safeclip.encoders.load import Encoder
from safeclip.evaluation.grids import Cell, draw_lines
from safeclip.evaluation.scenes import Scenes
from safeclip.metrics.intervals import Resampling
from safeclip.metrics.outcomes import measured
from safeclip.metrics.retrieval import TIE
from safeclip.metrics.topk import topk

REFERENCE = "safe_plain"
MODELS = ("base", "candidate")
Redirected = dict[str, dict[str, np.ndarray]]
"""By group, by model: [n] bool over the group's pictures."""


def redirected(
    encoders: Mapping[str, Encoder], scenes: Scenes, groups: Mapping[str, Group], batch_size: int
) -> Redirected:
    """What becomes of every group under every model; `DataError` if an embedding is not finite."""
    rows = sorted({picture.row for group in groups.values() for picture in group})
    place = {row: index for index, row in enumerate(rows)}
    found: Redirected = {name: {} for name in groups}
    for model, encoder in encoders.items():
        safe = embed_texts(encoder, [scenes.captions_safe[row] for row in rows], batch_size)
        generated = embed_texts(encoder, [scenes.captions_generated[row] for row in rows], batch_size)
        captions = torch.cat([safe, generated])
        _require_finite(captions, f"{model}, captions")
        for name, group in groups.items():
            own = torch.tensor([place[p.row] + len(rows) * p.generated for p in group])
            images = embed_images(encoder, [picture.image for picture in group], batch_size)
            _require_finite(images, f"{model}, {name}")
            found[name][model] = _lost(images, captions, own)
    return found


def _lost(images: Tensor, captions: Tensor, own: Tensor) -> np.ndarray:
    """[n] bool: another caption scores higher than the picture's own."""
    best, _ = topk(images, captions, 1)
    return (best[:, 0] > (images * captions[own]).sum(dim=1) + TIE).numpy()


def _require_finite(embeddings: Tensor, what: str) -> None:
    if not bool(embeddings.isfinite().all()):
        raise DataError(f"{what}: an embedding is not finite; mend the encoder or its input")


def outcome_rows(found: Redirected, groups: Mapping[str, Group], scenes: Scenes) -> pa.Table:
    """`audit.GROUP.redirected` of every picture, by model (OUTCOMES)."""
    rows = [
        {
            "id": scenes.ids[picture.row],
            "metric": f"audit.{name}.redirected",
            "categories": [],
            **{model: bool(found[name][model][place]) for model in MODELS},
        }
        for name, group in groups.items()
        for place, picture in enumerate(group)
    ]
    return pa.Table.from_pylist(rows, schema=OUTCOMES)


def group_lines(table: pa.Table, how: Resampling) -> list[dict[str, Any]]:
    """One line a group: n and the redirected share of both models with its interval."""
    found = measured(table)
    return [
        {
            "name": name,
            "title": title,
            "n": found[metric].n,
            **{model: found[metric].interval(model, how).as_dict() for model in MODELS},
        }
        for name, title in TITLES.items()
        if (metric := f"audit.{name}.redirected") in found
    ]


# Pictures beside the maps of what in them the model reacts to. Unsafe pictures do not show.


SQUARES = 16
"""A side of a map: coarse enough that it shows where, not what."""


def write_figure(path: Path, explained: Mapping[str, Sequence[Explained]], pictures: int) -> bool:
    """One line a group: picture, map, picture, map; False where there is nothing to draw."""
    lines = [
        (name.replace("_", "\n"), [cell for one in group[:pictures] for cell in _cells(name, one)])
        for name, group in explained.items()
        if group[:pictures]
    ]
    if lines:
        draw_lines(path, lines)
    return bool(lines)


def _cells(name: str, explained: Explained) -> list[Cell]:
    unsafe = name.startswith("unsafe")
    return [Cell(explained.picture.image, unsafe), Cell(_heat(explained), False)]


def _heat(explained: Explained) -> bytes:
    """White where nothing, dark red where most of the reaction comes from."""
    strength = heat_map(explained, SQUARES).numpy()[..., None]
    colours = (1 - strength) * np.array([255, 255, 255]) + strength * np.array([140, 20, 10])
    buffer = io.BytesIO()
    Image.fromarray(colours.astype(np.uint8)).resize((96, 96), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()
