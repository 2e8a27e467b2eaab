"""The model folder that a Bento carries: merged weights, base towers, reference vectors, probes, lineage."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safeclip.encoders.embed import embed_images, embed_texts
from safeclip.encoders.load import Encoder, load_encoder
from safeclip.encoders.save import save_like
from safeclip.registry.reference import reference_picture

REFERENCE_TEXTS = (
    "a woman walks a dog near the river",
    "two apples on a table",
    "a man holds a gun at the station",
    "a bicycle",
)


@dataclass(frozen=True)
class ModelFacts:
    """What the service tells beside vectors: probes by modality (`registry.scoring`), the gate's rules."""

    scoring: dict[str, Any]
    metrics: list[dict[str, Any]]


def write_model(
    folder: Path, candidate: Encoder, base: Path, lineage: dict[str, Any], facts: ModelFacts
) -> str:
    """Write the folder and return its version: the first 12 hex digits of the digest of what it stands on.

    `encoder/` keeps fp32, so that serving equals the checkpoint; `base/` scores what the encoder hides.
    """
    teacher = load_encoder(base)
    save_like(candidate.model, base, folder / "encoder")
    shutil.copytree(base, folder / "base")
    version = _digest({"encoder": candidate.digest, "base": teacher.digest, **lineage})[:12]
    _write(folder / "reference.json", _reference(candidate))
    _write(folder / "scoring.json", facts.scoring)
    _write(folder / "lineage.json", lineage)
    _write(
        folder / "info.json",
        {
            "version": version,
            "encoder_digest": load_encoder(folder / "encoder").digest,
            "base_digest": teacher.digest,
            "embed_dim": candidate.embed_dim,
            "image_size": candidate.image_size,
            "context_length": candidate.context_length,
            "lineage": lineage,
            "metrics": facts.metrics,
        },
    )
    return version


def _reference(candidate: Encoder) -> dict[str, Any]:
    picture = reference_picture()
    vectors = torch.cat(
        [embed_texts(candidate, list(REFERENCE_TEXTS)), embed_images(candidate, [base64.b64decode(picture)])]
    )
    return {"texts": list(REFERENCE_TEXTS), "images": [picture], "embeddings": vectors.tolist()}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, sort_keys=True) + "\n", encoding="utf-8")
