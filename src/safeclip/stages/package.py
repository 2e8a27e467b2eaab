"""A passed verdict, merged weights and the service become one Bento file; a failed verdict is refused."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from safeclip.encoders.load import Encoder, load_encoder
from safeclip.encoders.lora import load_candidate
from safeclip.errors import GateError
from safeclip.production import sha256
from safeclip.records import read_dataset
from safeclip.registry.bento import build_bento
from safeclip.registry.card import model_card
from safeclip.registry.model import ModelFacts, write_model
from safeclip.registry.scoring import Labelled, fit_probe
from safeclip.settings.package import Package
from safeclip.settings.stage import StageSettings
from safeclip.stages.stage import RESULTS, main, output, write_json
from safeclip.training.objectives import Quadruplets
from safeclip.training.teacher import embed_quadruplets, read_teacher

TEACHER = RESULTS / "embed_teacher"
ADAPTER = RESULTS / "finetune" / "adapter.safetensors"
SCRATCH = Path("work/package")
VERDICT = RESULTS / "gate" / "verdict.json"


class Settings(StageSettings):
    package: Package = Package()


def package(settings: Settings) -> None:
    """Write results/package/: NAME.tar, model_card.md and package.json (version and digests)."""
    verdict = passed_verdict(VERDICT)
    base = Path(settings.data.path) / "base_encoder"
    lineage = {"adapter": sha256(ADAPTER), "verdict": sha256(VERDICT), "data": sha256(Path("data.dvc"))}
    card = model_card(verdict, lineage)
    shutil.rmtree(SCRATCH, ignore_errors=True)  # of a run that was killed
    SCRATCH.mkdir(parents=True)
    with output("package") as out, tempfile.TemporaryDirectory(dir=SCRATCH) as scratch:
        os.environ["BENTOML_HOME"] = str(Path(scratch).resolve())  # before BentoML is imported
        model = Path(scratch) / "model"
        candidate = load_candidate(base, ADAPTER)
        facts = ModelFacts(scoring=_scoring(settings, candidate), metrics=_metrics(verdict))
        version = write_model(model, candidate, base, lineage, facts)
        (model / "model_card.md").write_text(card, encoding="utf-8")
        target = out / f"{settings.package.name}.tar"
        build_bento(Path.cwd(), model, card, settings.package.name, version, target)
        (out / "model_card.md").write_text(card, encoding="utf-8")
        record = {"name": settings.package.name, "version": version, "bento": sha256(target), **lineage}
        write_json(out / "package.json", record)
        print(f"{settings.package.name}:{version}, {target.stat().st_size / 1e6:.1f} MB")


def _scoring(settings: Settings, candidate: Encoder) -> dict[str, Any]:
    """Probes of both modalities: safe captions and pictures count as safe, generated ones as labelled."""
    teacher_digest = load_encoder(f"{settings.data.path}/base_encoder").digest
    tables = {split: read_dataset(RESULTS / "validate_data" / "dataset", split) for split in ("train", "val")}
    embedded = {
        split: read_teacher(TEACHER / f"{split}.safetensors", table["id"].to_pylist(), teacher_digest)
        for split, table in tables.items()
    }
    moved = {split: embed_quadruplets(candidate, table, batch_size=256) for split, table in tables.items()}
    categories = sorted({name for row in tables["train"]["categories"].to_pylist() for name in row})
    scoring = {}
    for modality in ("text", "image"):
        base = {name: _both(found, modality) for name, found in embedded.items()}
        served = {name: _both(found, modality) for name, found in moved.items()}
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


def _metrics(verdict: dict[str, Any]) -> list[dict[str, Any]]:
    names = ("id", "metric", "against", "n", "estimate", "low", "high", "bound")
    return [{name: rule[name] for name in names} for rule in verdict["rules"]]


def passed_verdict(path: Path) -> dict[str, Any]:
    """The verdict, if it passed; `GateError` names the failed rules otherwise."""
    try:
        verdict: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise GateError(f"{path}: no verdict yet; run `safeclip stage gate` first") from None
    except ValueError:
        raise GateError(f"{path}: not readable as JSON; run `safeclip stage gate` again") from None
    if verdict.get("passed") is not True:
        failed = [rule["id"] for rule in verdict.get("rules", []) if not rule["passed"]]
        raise GateError(f"the gate failed ({', '.join(failed) or 'no rule held'}); nothing is packaged")
    return verdict


if __name__ == "__main__":
    main(package, Settings)
