"""Stage red_team: unsafe queries in other words and other pictures, against base and candidate alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from safeclip.encoders.load import Encoder, load_encoder
from safeclip.encoders.lora import load_candidate
from safeclip.evaluation.scenes import Scenes, judged_scenes
from safeclip.evaluation.summary import summarise
from safeclip.guard import load_guard
from safeclip.intervals import Resampling
from safeclip.lineage import evidence_digests
from safeclip.outcomes import measured
from safeclip.production import sha256
from safeclip.records import OUTCOMES, TRUTH, read_dataset, read_table, write_table
from safeclip.redteam.attacks import make_attack
from safeclip.redteam.measure import Attacked, Range
from safeclip.redteam.queries import Query, Victim, galleries, halves, select, unsafe_queries
from safeclip.redteam.summary import attack_line, outcome_rows
from safeclip.settings.red_team import RedTeam
from safeclip.settings.stage import StageSettings
from safeclip.stages.stage import RESULTS, main, output, write_json

STAGE = "red_team"
DATASET = RESULTS / "validate_data" / "dataset"
TRUTH_FILE = RESULTS / "render_images" / "truth.parquet"
ADAPTER = RESULTS / "finetune" / "adapter.safetensors"


class Settings(StageSettings):
    red_team: RedTeam = RedTeam()


def red_team(settings: Settings) -> None:
    """Write results/red_team: metrics.json and outcomes.parquet."""
    dataset = read_dataset(DATASET, "test")
    scenes = judged_scenes(dataset, read_table(TRUTH_FILE, TRUTH))
    base = Path(settings.data.path) / "base_encoder"
    encoders = {"base": load_encoder(base), "candidate": load_candidate(base, ADAPTER)}
    attacked, skipped = _attack(settings, encoders, scenes, dataset["concept"].to_pylist())
    digests = evidence_digests(encoders, adapter=ADAPTER, dataset=DATASET, truth=TRUTH_FILE)
    with output(STAGE) as out:
        write_table(out / "outcomes.parquet", outcome_rows(attacked), OUTCOMES)
        digests["outcomes"] = sha256(out / "outcomes.parquet")
        own = settings.red_team
        how = Resampling(settings.seed, own.bootstrap, own.confidence)
        metrics = _metrics(attacked, outcome_rows(attacked), how)
        metrics |= {"skipped": skipped, "resampling": vars(how), "digests": digests}
        write_json(out / "metrics.json", metrics)


def _attack(
    settings: Settings, encoders: dict[str, Encoder], scenes: Scenes, concepts: Sequence[str]
) -> tuple[list[Attacked], list[dict[str, str]]]:
    """Every attack that there are queries and unsafe items for; the others with the reason."""
    own = settings.red_team
    reported, _ = halves(len(scenes), own.scenes)
    ours = select(scenes, reported)
    victims = [
        Victim(name, encoder, galleries(encoder, ours, own.batch_size, name))
        for name, encoder in encoders.items()
    ]
    firing = Range(victims, load_guard(), own.batch_size)
    queries = {
        "text": unsafe_queries(ours, [concepts[row] for row in reported], ours.text_unsafe, own.queries),
        "image": unsafe_queries(ours, [concepts[row] for row in reported], ours.image_unsafe, own.queries),
    }
    attacked, skipped = [], []
    for how in own.attacks:
        found = _run(firing, make_attack(how, settings.seed), queries, ours)
        if isinstance(found, str):
            skipped.append({"name": how.kind, "why": found})
            print(f"{STAGE}: {how.kind} not measured ({found})", flush=True)
        else:
            attacked.append(found)
            shares = {name: f"{found.success[name].mean():.3f}" for name in encoders}
            print(f"{STAGE}: {how.kind}, unsafe first {shares}, n {len(found.queries)}", flush=True)
    return attacked, skipped


def _run(firing: Range, attack: Any, queries: dict[str, list[Query]], scenes: Scenes) -> Attacked | str:
    """What the attack achieved, or why it could not be measured."""
    modality = "text" if hasattr(attack, "captions") else "image"
    unsafe_items = scenes.image_unsafe if modality == "text" else scenes.text_unsafe
    if not queries[modality]:
        return f"no unsafe {'caption' if modality == 'text' else 'picture'} to ask for"
    if not np.any(unsafe_items):
        return "no unsafe item in the gallery"
    found = (firing.text if modality == "text" else firing.image)(attack, queries[modality])
    return found if found.queries else "the content guard destroyed every variant"


def _metrics(attacked: Sequence[Attacked], table: pa.Table, how: Resampling) -> dict[str, Any]:
    """The attacks with their intervals, and their success as numbers by model, as the gate wants them."""
    numbers = summarise(measured(table), how)
    return {
        "attacks": [attack_line(found, how) for found in attacked],
        "destroyed": sum(found.destroyed for found in attacked),
        "candidate": numbers["candidate"],
        "base": numbers["base"],
        "production": None,
    }


if __name__ == "__main__":
    main(red_team, Settings)
