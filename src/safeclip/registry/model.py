"""The model folder that a Bento carries: merged weights, the base towers, reference vectors, lineage."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from safeclip.encoders.embed import embed_texts
from safeclip.encoders.load import Encoder, load_encoder
from safeclip.encoders.save import save_like

REFERENCE_TEXTS = (
    "a woman walks a dog near the river",
    "two apples on a table",
    "a man holds a gun at the station",
    "a bicycle",
)


def write_model(folder: Path, candidate: Encoder, base: Path, lineage: dict[str, Any]) -> str:
    """Write the folder and return its version: the first 12 hex digits of the digest of what it stands on.

    `encoder/` keeps fp32, so that serving equals the checkpoint; `base/` scores what the encoder hides.
    """
    teacher = load_encoder(base)
    save_like(candidate.model, base, folder / "encoder")
    shutil.copytree(base, folder / "base")
    version = _digest({"encoder": candidate.digest, "base": teacher.digest, **lineage})[:12]
    vectors = embed_texts(candidate, list(REFERENCE_TEXTS))
    _write(folder / "reference.json", {"texts": list(REFERENCE_TEXTS), "embeddings": vectors.tolist()})
    _write(folder / "lineage.json", lineage)
    _write(
        folder / "info.json",
        {
            "version": version,
            "base_digest": teacher.digest,
            "embed_dim": candidate.embed_dim,
            "image_size": candidate.image_size,
            "context_length": candidate.context_length,
        },
    )
    return version


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, sort_keys=True) + "\n", encoding="utf-8")
