"""Stage red_team: unsafe queries in other words and other pictures, against base and candidate alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from safeclip.core.files import sha256, write_json
from safeclip.core.guard import load_guard
from safeclip.core.records import OUTCOMES, TRUTH, read_dataset, read_table, write_table
from safeclip.core.stage import RESULTS, main, output
from safeclip.encoders.load import Encoder, load_encoder
from safeclip.encoders.lora import load_candidate
from safeclip.evaluation.scenes import Scenes, evidence_digests, judged_scenes
from safeclip.evaluation.summary import summarise
from safeclip.metrics.intervals import Resampling
from safeclip.metrics.outcomes import measured
from safeclip.redteam.attacks import make_attacks
from safeclip.redteam.measure import Attacked, Range, attack_line, outcome_rows
from safeclip.redteam.queries import (
    AnyAttack,
    Query,
    Victim,
    galleries,
    halves,
    select,
    tuning,
    unsafe_queries,
)
from safeclip.settings import RedTeam, StageSettings, Tuned

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
    reported, tuned = halves(len(scenes), own.scenes)
    ours = select(scenes, reported)
    seen = (
        select(scenes, tuned) if any(isinstance(how, Tuned) for how in own.attacks) and len(tuned) else None
    )
    victims = [
        Victim(
            name,
            encoder,
            galleries(encoder, ours, own.batch_size, name),
            None if seen is None else tuning(encoder, seen, own.batch_size, name),
        )
        for name, encoder in encoders.items()
    ]
    guard = load_guard()
    firing = Range(victims, guard, own.batch_size)
    queries = {
        "text": unsafe_queries(ours, [concepts[row] for row in reported], ours.text_unsafe, own.queries),
        "image": unsafe_queries(ours, [concepts[row] for row in reported], ours.image_unsafe, own.queries),
    }
    attacked, skipped = [], []
    for how in own.attacks:
        for attack in make_attacks(how, settings.seed, guard, own.batch_size):
            why = _impossible(attack, queries, [ours, seen] if isinstance(how, Tuned) else [ours])
            found = None if why else _run(firing, attack, queries, ours)
            if found is None or not found.queries:
                why = why or "the content guard destroyed every variant"
                skipped.append({"name": attack.name, "why": why})
                print(f"{STAGE}: {attack.name} not measured ({why})", flush=True)
            else:
                attacked.append(found)
                shares = {name: f"{found.success[name].mean():.3f}" for name in encoders}
                print(f"{STAGE}: {attack.name}, succeeds {shares}, n {len(found.queries)}", flush=True)
    return attacked, skipped


def _impossible(attack: AnyAttack, queries: dict[str, list[Query]], needed: Sequence[Scenes | None]) -> str:
    """Why an attack cannot be measured on this data, or nothing. `needed`: the halves that it looks at."""
    pictures = hasattr(attack, "pictures")
    if not queries["image" if pictures else "text"]:
        return f"no unsafe {'picture' if pictures else 'caption'} to ask for"
    for half in needed:
        if half is None:
            return "no second half of the scenes to tune on"
        if not np.any(half.text_unsafe if pictures else half.image_unsafe):
            return "no unsafe item in the gallery"
    return ""


def _run(firing: Range, attack: Any, queries: dict[str, list[Query]], scenes: Scenes) -> Attacked:
    """Aim the attack at what it attacks: captions, pictures, the gallery or the weights."""
    if hasattr(attack, "captions"):
        return firing.text(attack, queries["text"])
    if hasattr(attack, "pictures"):
        return firing.image(attack, queries["image"])
    if hasattr(attack, "item"):
        return firing.gallery(attack, queries["text"])
    return firing.weights(attack, queries["text"], scenes)


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
