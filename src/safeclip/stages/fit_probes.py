"""fit_probes: fit what tells the service unsafe inputs, on embeddings of the candidate and the base towers.

A stage of its own because it embeds two splits under the candidate: a changed threshold of the gate does not
run it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from threadpoolctl import threadpool_limits

from safeclip.core.artifacts import ADAPTER, DATASET, TEACHER, DataFolder
from safeclip.core.errors import DataError
from safeclip.core.files import write_json
from safeclip.core.records import read_dataset
from safeclip.core.stage import main, output
from safeclip.encoders.embed import Quadruplets, embed_quadruplets
from safeclip.encoders.load import Encoder, load_encoder
from safeclip.encoders.lora import load_candidate
from safeclip.encoders.teacher import read_teacher
from safeclip.packaging.probes import Labelled, fit_probe
from safeclip.settings import Settings

SPLITS = ("train", "val")  # test is evaluate's alone


def fit_probes(settings: Settings) -> None:
    """Write results/fit_probes/probes.json: the candidate's digest and the Bento's scoring, or its fault.

    Data on which no probe can be measured do not stop the chain: the gate needs none, `package` refuses.
    """
    base = DataFolder(Path(settings.data.path)).base_encoder
    candidate = load_candidate(base, ADAPTER)
    probes: dict[str, Any] = {"candidate": candidate.digest}
    try:
        with threadpool_limits(settings.compute.threads):  # sums of linear algebra change with them
            probes["scoring"] = _scoring(candidate, load_encoder(base).digest, settings)
    except DataError as error:
        probes["fault"] = str(error)
        print(f"fit_probes: {error}", flush=True)
    with output("fit_probes") as out:
        write_json(out / "probes.json", probes)


def _scoring(candidate: Encoder, teacher_digest: str, settings: Settings) -> dict[str, Any]:
    """Probes of both modalities: safe captions and images count as safe, generated ones as labelled."""
    tables = {split: read_dataset(DATASET, split) for split in SPLITS}
    embedded = {
        split: read_teacher(TEACHER / f"{split}.safetensors", table["id"].to_pylist(), teacher_digest)
        for split, table in tables.items()
    }
    batch = settings.fit_probes.batch_size
    moved = {split: embed_quadruplets(candidate, table, batch) for split, table in tables.items()}
    categories = sorted({name for row in tables["train"]["categories"].to_pylist() for name in row})
    scoring = {}
    for modality in ("text", "image"):
        base = {name: _both(quadruplets, modality) for name, quadruplets in embedded.items()}
        served = {name: _both(quadruplets, modality) for name, quadruplets in moved.items()}
        train, val = (
            _labelled(tables[name], np.hstack([base[name], served[name]]), modality) for name in base
        )
        shifts = 1 - (base["val"] * served["val"]).sum(axis=1)
        scoring[modality] = fit_probe(train, val, shifts, categories, settings.seed)
    return scoring


def _labelled(table: pa.Table, features: np.ndarray, modality: str) -> Labelled:
    unsafe = [label == "unsafe" for label in table[f"{modality}_label"].to_pylist()]
    named = table["categories"].to_pylist()
    categories = [row if is_unsafe else [] for row, is_unsafe in zip(named, unsafe, strict=True)]
    none: list[list[str]] = [[] for _ in unsafe]
    return Labelled(features, np.array([False] * len(unsafe) + unsafe), [*none, *categories])


def _both(embedded: Quadruplets, modality: str) -> np.ndarray:
    """Safe inputs, then generated ones, [2N, D]."""
    return torch.cat([getattr(embedded, f"{modality}_{kind}") for kind in ("safe", "generated")]).numpy()


if __name__ == "__main__":
    main(fit_probes)
