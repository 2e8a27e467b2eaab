"""Digests of what a measurement stands on: the models, the data, the judge."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safeclip.encoders.load import Encoder
from safeclip.production import sha256


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
