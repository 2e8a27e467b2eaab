"""Retrieval and zero-shot of candidate, base and production on the test split, judged by truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from safetensors.torch import load_file, save_file

from safeclip.core import artifacts
from safeclip.core.checkpoints import Scratch, open_scratch
from safeclip.core.files import sha256, write_json
from safeclip.core.production import PRODUCTION, production_adapter, read_production
from safeclip.core.records import TRUTH, read_dataset, read_table, write_table
from safeclip.core.stage import main, output
from safeclip.core.taxonomy import load_taxonomy
from safeclip.encoders.embed import Quadruplets
from safeclip.encoders.load import Encoder, load_encoder
from safeclip.encoders.lora import load_candidate
from safeclip.evaluation.plots import write_headlines, write_recall_curves, write_slices
from safeclip.evaluation.retrieved import retrieved
from safeclip.evaluation.scenes import (
    Scenes,
    embed_scenes,
    evidence_digests,
    scene_outcomes,
    scenes_with_truth,
)
from safeclip.evaluation.summary import ModelOutcomes, outcome_table, scene_slices, summarise, worst_first
from safeclip.evaluation.zeroshot import ZeroShotSet, read_zeroshot, set_digest, zeroshot_correct
from safeclip.metrics.intervals import Resampling
from safeclip.metrics.outcomes import SLICED_OUTCOMES, measured
from safeclip.settings import Settings


def evaluate(settings: Settings) -> None:
    """Write results/evaluate: metrics.json, outcomes.parquet, retrieved.json and plots/."""
    data = Path(settings.data.path)
    dataset = read_dataset(artifacts.DATASET, "test")
    scenes = scenes_with_truth(dataset, read_table(artifacts.TRUTH, TRUTH))
    concepts = {phrase.text: phrase.concept for phrase in load_taxonomy(data / "taxonomy.yaml").phrases}
    slices = scene_slices(dataset, scenes, concepts)
    task = read_zeroshot(data / settings.evaluate.zeroshot, data / settings.evaluate.zeroshot_prompts)
    pictures = f"{len(task.labels)} zero-shot pictures" if task.labels else "zero-shot not measured (no set)"
    print(f"evaluate: {len(scenes)} scenes, {pictures}", flush=True)
    encoders = _encoders(data / "base_encoder")
    base = data / "base_encoder"
    inputs = [base, artifacts.DATASET, artifacts.TRUTH, artifacts.ADAPTER, PRODUCTION]
    with open_scratch("evaluate", settings, inputs) as scratch:
        embeddings, outcomes = _run(encoders, scenes, task, settings.evaluate.batch_size, scratch)
        table = outcome_table(outcomes, scenes.ids, scenes.categories, task.ids, slices)
        _write(
            settings,
            table,
            encoders,
            scenes,
            task,
            retrieved(scenes, embeddings, settings.evaluate.grid_queries),
        )


def _write(
    settings: Settings,
    table: pa.Table,
    encoders: dict[str, Encoder],
    scenes: Scenes,
    task: ZeroShotSet,
    lookups: dict[str, Any],
) -> None:
    own = settings.evaluate
    how = Resampling(settings.seed, own.bootstrap, own.confidence)
    with output("evaluate") as out:
        write_table(out / "outcomes.parquet", table, SLICED_OUTCOMES)
        found = measured(table)
        metrics = summarise(found, how, own.slice_min_n)
        metrics["n"] = {
            "scenes": len(scenes),
            "zeroshot": len(task.labels),
            "slice_minimum": own.slice_min_n,
        }
        metrics["digests"] = _digests(settings, encoders, out / "outcomes.parquet")
        write_json(out / "metrics.json", metrics)
        write_recall_curves(out / "plots" / "recall.csv", metrics)
        write_slices(out / "plots" / "slices.csv", worst_first(found, how, own.slice_min_n))
        write_headlines(out / "plots" / "headlines.png", metrics)
        write_json(out / "retrieved.json", lookups)


def _encoders(base: Path) -> dict[str, Encoder]:
    encoders = {"base": load_encoder(base), "candidate": load_candidate(base, artifacts.ADAPTER)}
    production = read_production()
    if production.assigned:
        encoders["production"] = load_candidate(base, production_adapter(production))
    return encoders


def _run(
    encoders: dict[str, Encoder], scenes: Scenes, task: ZeroShotSet, batch_size: int, scratch: Scratch
) -> tuple[dict[str, Quadruplets], dict[str, ModelOutcomes]]:
    embeddings, outcomes = {}, {}
    for name, encoder in encoders.items():
        print(f"evaluate: {name}", flush=True)
        embeddings[name] = _embed(name, encoder, scenes, batch_size, scratch)
        retrieval = scene_outcomes(embeddings[name], scenes)
        outcomes[name] = ModelOutcomes(retrieval, zeroshot_correct(encoder, task, batch_size))
    return embeddings, outcomes


def _embed(name: str, encoder: Encoder, scenes: Scenes, batch_size: int, scratch: Scratch) -> Quadruplets:
    """One model's embeddings of the scenes; those that a killed run has finished are read again."""
    file = scratch.folder / f"{name}.safetensors"
    if not scratch.has(name):
        save_file(vars(embed_scenes(encoder, scenes, batch_size)), file)
        scratch.keep(name, [file])
    return Quadruplets(**load_file(file))


def _digests(settings: Settings, encoders: dict[str, Encoder], outcomes: Path) -> dict[str, str]:
    """What the numbers stand on: models, data, judge, production and the outcomes themselves."""
    own, data = settings.evaluate, Path(settings.data.path)
    return evidence_digests(encoders) | {
        "zeroshot": set_digest(data / own.zeroshot),
        "zeroshot_prompts": sha256(data / own.zeroshot_prompts),
        "production": sha256(PRODUCTION),
        "outcomes": sha256(outcomes),
    }


if __name__ == "__main__":
    main(evaluate)
