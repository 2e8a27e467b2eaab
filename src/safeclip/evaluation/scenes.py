"""What is evaluated: the scenes of one split with the judge's verdict on each generated item."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from torch import Tensor

from safeclip.encoders.embed import embed_images, embed_texts
from safeclip.encoders.load import Encoder
from safeclip.errors import DataError


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


@dataclass(frozen=True)
class Embeddings:
    """One model's l2-normalised embeddings of the scenes, each [N, D] float32."""

    text_safe: Tensor
    text_generated: Tensor
    image_safe: Tensor
    image_generated: Tensor


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


def embed_scenes(encoder: Encoder, scenes: Scenes, batch_size: int) -> Embeddings:
    """All four items of every scene under one encoder."""
    return Embeddings(
        text_safe=embed_texts(encoder, scenes.captions_safe, batch_size),
        text_generated=embed_texts(encoder, scenes.captions_generated, batch_size),
        image_safe=embed_images(encoder, scenes.images_safe, batch_size),
        image_generated=embed_images(encoder, scenes.images_generated, batch_size),
    )
