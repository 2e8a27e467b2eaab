"""The scenes of one split with the truth about each generated item, and their embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from safeclip.core import artifacts
from safeclip.core.errors import DataError
from safeclip.core.files import sha256
from safeclip.encoders.embed import Quadruplets, embed_images, embed_texts
from safeclip.encoders.load import Encoder
from safeclip.metrics.retrieval import Outcome, copies, retrieval_outcomes


@dataclass(frozen=True)
class Scenes:
    """N scenes in id order; `text_unsafe` and `image_unsafe` [N] bool are the truth, not labels."""

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

    def select(self, rows: np.ndarray) -> Scenes:
        """Pick some of the scenes, in the order of `rows`."""
        picked: dict[str, Any] = {
            name: value[rows] if isinstance(value, np.ndarray) else [value[row] for row in rows]
            for name, value in vars(self).items()
        }
        return Scenes(**picked)


def scenes_with_truth(dataset: pa.Table, truth: pa.Table) -> Scenes:
    """Join quadruplets (QUADRUPLETS) and truth (TRUTH) on id; `DataError` names a scene without truth.

    Where the truth of a caption or an image is null (nobody knows it), its label stands in for it.
    """
    ids = dataset["id"].to_pylist()
    if not ids:
        raise DataError("the test split holds no scene; raise `data.test` or look at the quarantine")
    if len(set(ids)) != len(ids):
        twice = next(item for item in ids if ids.count(item) > 1)
        raise DataError(f"scene {twice} stands twice in the test split; run validate_data again")
    truths = {row["id"]: row for row in truth.to_pylist()}
    missing = [item for item in ids if item not in truths]
    if missing:
        raise DataError(f"scene {missing[0]} has no truth ({len(missing)} such); run render_images again")

    def unsafe(modality: str) -> np.ndarray:
        known = [truths[item][f"{modality}_unsafe"] for item in ids]
        labels = dataset[f"{modality}_label"].to_pylist()
        return np.array(
            [
                label == "unsafe" if truth is None else truth
                for truth, label in zip(known, labels, strict=True)
            ]
        )

    return Scenes(
        ids=ids,
        categories=dataset["categories"].to_pylist(),
        captions_safe=dataset["caption_safe"].to_pylist(),
        captions_generated=dataset["caption_generated"].to_pylist(),
        images_safe=dataset["image_safe"].to_pylist(),
        images_generated=dataset["image_generated"].to_pylist(),
        text_unsafe=unsafe("text"),
        image_unsafe=unsafe("image"),
    )


def embed_scenes(encoder: Encoder, scenes: Scenes, batch_size: int) -> Quadruplets:
    """Embed all four items of every scene, [N, D] each."""
    return Quadruplets(
        text_safe=embed_texts(encoder, scenes.captions_safe, batch_size),
        text_generated=embed_texts(encoder, scenes.captions_generated, batch_size),
        image_safe=embed_images(encoder, scenes.images_safe, batch_size),
        image_generated=embed_images(encoder, scenes.images_generated, batch_size),
    )


def scene_outcomes(embeddings: Quadruplets, scenes: Scenes) -> dict[str, Outcome]:
    """Compute every retrieval outcome of embedded scenes; equal captions, or images, are copies."""
    return retrieval_outcomes(
        embeddings,
        scenes.text_unsafe,
        scenes.image_unsafe,
        copies(scenes.captions_generated),
        copies(scenes.images_generated),
    )


def evidence_digests(encoders: Mapping[str, Encoder]) -> dict[str, str]:
    """Digest what every measurement stands on: `NAME_model` of each encoder, the candidate's adapter file,
    the test split's shards together, and the truth (under its old key, `judge`)."""
    shards = "".join(sha256(path) for path in sorted(artifacts.DATASET.glob("test-*.parquet")))
    return {f"{name}_model": encoder.digest for name, encoder in encoders.items()} | {
        "candidate_adapter": sha256(artifacts.ADAPTER),
        "data": hashlib.sha256(shards.encode()).hexdigest(),
        "judge": sha256(artifacts.TRUTH),
    }
