"""Ask for unsafe things in other words and with other images, base and candidate alike."""

from __future__ import annotations

from pathlib import Path

from safeclip.core import artifacts
from safeclip.core.files import sha256, write_json
from safeclip.core.guard import load_guard
from safeclip.core.parts import load_part
from safeclip.core.records import OUTCOMES, TRUTH, read_dataset, read_table, write_table
from safeclip.core.stage import main, output
from safeclip.encoders.load import load_encoder
from safeclip.encoders.lora import load_candidate
from safeclip.evaluation.scenes import Scenes, evidence_digests, scenes_with_truth
from safeclip.evaluation.summary import summarise
from safeclip.metrics.intervals import Resampling
from safeclip.metrics.outcomes import measured
from safeclip.redteam.attacks import make_attacks
from safeclip.redteam.runner import (
    AttackResult,
    AttackRunner,
    attack_line,
    halves,
    make_victim,
    outcome_rows,
    unsafe_queries,
)
from safeclip.redteam.space import probe_auc
from safeclip.settings import Settings


def red_team(settings: Settings) -> None:
    """Write results/red_team: metrics.json and outcomes.parquet.

    An attack that the data gives no query or no unsafe item for is listed in `skipped` with the reason.
    """
    cfg = settings.red_team
    dataset = read_dataset(artifacts.DATASET, "test")
    scenes = scenes_with_truth(dataset, read_table(artifacts.TRUTH, TRUTH))
    folder = artifacts.DataFolder(Path(settings.data.path)).base_encoder
    encoders = {"base": load_encoder(folder), "candidate": load_candidate(folder, artifacts.ADAPTER)}
    guard, synonyms = load_guard(), load_part(cfg.synonyms)
    attacks = [
        attack
        for section in cfg.attacks
        for attack in make_attacks(section, settings.seed, guard, cfg.batch_size, synonyms)
    ]

    # one half of the scenes is reported on, the other is for attacks that learn something common to all
    reported_rows, tuning_rows = halves(len(scenes), cfg.scenes)
    reported, tuning = scenes.select(reported_rows), None
    if len(tuning_rows) and any(attack.tuned for attack in attacks):
        tuning = scenes.select(tuning_rows)
    concepts = [dataset["concept"][row].as_py() for row in reported_rows.tolist()]
    known = _known_scenes()
    victims = [
        make_victim(name, encoder, reported, cfg.batch_size, tuning=tuning, known=known)
        for name, encoder in encoders.items()
    ]
    runner = AttackRunner(
        victims,
        {
            "text": unsafe_queries(reported, concepts, reported.text_unsafe, cfg.queries),
            "image": unsafe_queries(reported, concepts, reported.image_unsafe, cfg.queries),
        },
        reported,
        guard,
        cfg.batch_size,
    )

    results: list[AttackResult] = []
    skipped: list[dict[str, str]] = []
    for attack in attacks:
        reason = runner.obstacle(attack)
        result = None if reason else attack.run(runner)
        if result is not None and result.queries:
            results.append(result)
            rates = {name: f"{result.attacked[name].mean():.3f}" for name in encoders}
            print(f"red_team: {attack.name}, succeeds {rates}, n {len(result.queries)}", flush=True)
        else:
            reason = reason or "the content guard destroyed every variant"
            skipped.append({"name": attack.name, "why": reason})
            print(f"red_team: {attack.name} not measured ({reason})", flush=True)

    table = outcome_rows(results)
    resampling = Resampling(settings.seed, cfg.bootstrap, cfg.confidence)
    numbers = summarise(measured(table), resampling)
    with output("red_team") as out:
        write_table(out / "outcomes.parquet", table, OUTCOMES)
        metrics = {
            "attacks": [attack_line(result, resampling) for result in results],
            "destroyed": sum(result.destroyed for result in results),
            # the success of each attack as numbers by model, as the gate reads them
            "candidate": numbers["candidate"],
            "base": numbers["base"],
            "production": None,
            # how well one embedding betrays that its item is unsafe: area under the ROC curve
            "probe": {victim.name: probe_auc(*victim.spaces) for victim in victims if victim.spaces},
            "skipped": skipped,
            "resampling": vars(resampling),
            "digests": evidence_digests(encoders) | {"outcomes": sha256(out / "outcomes.parquet")},
        }
        write_json(out / "metrics.json", metrics)


def _known_scenes() -> Scenes | None:
    """The val split, whose unsafe pairs an attacker of embeddings knows; None where there is none."""
    if not list(artifacts.DATASET.glob("val-*.parquet")):
        return None
    return scenes_with_truth(read_dataset(artifacts.DATASET, "val"), read_table(artifacts.TRUTH, TRUTH))


if __name__ == "__main__":
    main(red_team)
