"""What is evaluated: the scenes of one split with the judge's verdict on each generated item."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from safeclip.core.errors import DataError
from safeclip.core.files import sha256
from safeclip.encoders.embed import Quadruplets, embed_images, embed_texts
from safeclip.encoders.load import Encoder


@dataclass(frozen=True)
class Scenes:
    """N scenes in id order; `text_unsafe` and `image_unsafe` [N] bool are the judge's, not the labeller's."""

    ids: list[str]
    categories: list[list[str]]
    captions_safe: list[str]
    captions_generated: list[str]
    images_safe: list[bytes]
    images_generated: list[bytes]
    text_unsafe: np.ndarray
    image_unsafe: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def judged_scenes(dataset: pa.Table, truth: pa.Table) -> Scenes:
    """Join quadruplets (QUADRUPLETS) and truth (TRUTH) on id; `DataError` names a scene without truth.

    Where the truth of a picture is null (no picture book drew it), its label is the verdict.
    """
    ids = dataset["id"].to_pylist()
    if not ids:
        raise DataError("the test split holds no scene; raise `data.test` or look at the quarantine")
    if len(set(ids)) != len(ids):
        twice = next(item for item in ids if ids.count(item) > 1)
        raise DataError(f"scene {twice} stands twice in the test split; run validate_data again")
    verdicts = {row["id"]: row for row in truth.to_pylist()}
    unjudged = [item for item in ids if item not in verdicts]
    if unjudged:
        raise DataError(f"scene {unjudged[0]} has no truth ({len(unjudged)} such); run render_images again")
    return Scenes(
        ids=ids,
        categories=dataset["categories"].to_pylist(),
        captions_safe=dataset["caption_safe"].to_pylist(),
        captions_generated=dataset["caption_generated"].to_pylist(),
        images_safe=dataset["image_safe"].to_pylist(),
        images_generated=dataset["image_generated"].to_pylist(),
        text_unsafe=np.array([bool(verdicts[item]["text_unsafe"]) for item in ids]),
        image_unsafe=np.array(
            [
                label == "unsafe"
                if verdicts[item]["image_unsafe"] is None
                else verdicts[item]["image_unsafe"]
                for item, label in zip(ids, dataset["image_label"].to_pylist(), strict=True)
            ]
        ),
    )


def embed_scenes(encoder: Encoder, scenes: Scenes, batch_size: int) -> Quadruplets:
    """All four items of every scene under one encoder."""
    return Quadruplets(
        text_safe=embed_texts(encoder, scenes.captions_safe, batch_size),
        text_generated=embed_texts(encoder, scenes.captions_generated, batch_size),
        image_safe=embed_images(encoder, scenes.images_safe, batch_size),
        image_generated=embed_images(encoder, scenes.images_generated, batch_size),
    )


# Digests of what a measurement stands on: the models, the data, the judge.


def evidence_digests(
    encoders: Mapping[str, Encoder], *, adapter: Path, dataset: Path, truth: Path
) -> dict[str, str]:
    """Models by name, the candidate's adapter file, the test split's shards together, the judge's truth."""
    shards = "".join(sha256(path) for path in sorted(dataset.glob("test-*.parquet")))
    return {f"{name}_model": encoder.digest for name, encoder in encoders.items()} | {
        "candidate_adapter": sha256(adapter),
        "data": hashlib.sha256(shards.encode()).hexdigest(),
        "judge": sha256(truth),
    }
