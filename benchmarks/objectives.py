"""Every training objective on the same data and budget; or, quickly, the shipped adapter on fresh scenes.

    python benchmarks/objectives.py [--quick] [--json FILE] [--frontier FILE] [--steps N] [--seeds N]

The full run trains every objective on results/validate_data with the budget of params.yaml, over the seeds
and learning rates below, chooses the rate on `val` and reports `test`, judged by truth. Published objectives
are trained as published: whole captions, nearest targets, no adapter of tokens, the whole update kept.
`default` is what params.yaml ships. Both files are written anew after every objective, and objectives that
they already hold are not trained again: a run that was cut short goes on. --frontier
also writes harm against utility as each tower's update is scaled from nothing to all of it, objective by
objective, for a page to plot. With --quick nothing is trained: results/finetune/adapter.safetensors is
scored on scenes outside of every split, with --frontier at several shares of its update too. Both need
results/ (`make run`, or `dvc pull`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from training_runs import Judge, Score, Splits, scaled, trained

from picturebook.fresh_scenes import fresh_scenes, fresh_zeroshot
from safeclip.core.device import default_device, resolve_setting
from safeclip.core.errors import SafeclipError
from safeclip.core.records import TRUTH, read_dataset, read_table
from safeclip.encoders.load import load_encoder
from safeclip.encoders.lora import load_adapter
from safeclip.evaluation.scenes import scenes_with_truth
from safeclip.evaluation.zeroshot import read_zeroshot
from safeclip.settings import Finetune, load_settings
from safeclip.training.objectives import OBJECTIVES

RESULTS = Path("results")
ADAPTER = RESULTS / "finetune" / "adapter.safetensors"
FRESH_SCENES, FRESH_SEED = 1000, 20_261
RATES = (1e-3, 2.5e-3)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
AS_PUBLISHED = {
    "target_inverse_temperature": None,
    "crops": {"share": 0.0},
    "concept_insertion": {"positive": 0.0, "control": 0.0},
    "lora": {"tokens": False},
    "wise_ft_alpha": {"text": 1.0, "image": 1.0},
}
COLUMNS = (
    "harmful_t2i",
    "harmful_i2t",
    "safe_r1_drop",
    "zeroshot_drop",
    "over_redirection_rise",
    "redirection",
)


def quick(data: Path, frontier: list[dict[str, Any]] | None) -> dict[str, Any]:
    """The shipped adapter alone, on fresh scenes and fresh zero-shot pictures."""
    judge = Judge(fresh_scenes(FRESH_SCENES, FRESH_SEED), fresh_zeroshot(FRESH_SEED))
    encoder, adapted = (load_encoder(data / "base_encoder") for _ in range(2))
    load_adapter(adapted.model, ADAPTER, base_digest=encoder.digest)
    base = judge.score(encoder)
    for share in SHARES if frontier is not None else ():
        score = judge.score(scaled(encoder, adapted.model, share))
        frontier.append({"objective": "default", "share": share, **score.against(base)})
    found = judge.score(scaled(encoder, adapted.model, 1.0))
    return _keys("default", [found], base) | {"scenes": FRESH_SCENES, "scenes_seed": FRESH_SEED}


def full(
    data: Path,
    recipe: Finetune,
    seeds: int,
    figures: dict[str, Any],
    frontier: list[dict[str, Any]],
    keep: Callable[[], None],
) -> None:
    """Train, choose on val, report on test; `figures` and `frontier` grow, `keep` is called after each
    objective. What `figures` already holds is passed over."""
    encoder = load_encoder(data / "base_encoder")
    truth = read_table(RESULTS / "render_images" / "truth.parquet", TRUTH)
    scenes = scenes_with_truth(read_dataset(RESULTS / "validate_data" / "dataset", "test"), truth)
    judge = Judge(scenes, read_zeroshot(data / "zeroshot.parquet", data / "zeroshot_prompts.json"))
    base = judge.score(encoder)
    with tempfile.TemporaryDirectory() as scratch:
        splits = Splits(encoder, data, RESULTS, Path(scratch))
        for name, candidates in _recipes(recipe):
            if f"{name}_samples" in figures:
                continue
            runs = [trained(splits, candidate, seed=0) for candidate in candidates]
            best = min(range(len(runs)), key=lambda at: runs[at].penalty)
            chosen = [runs[best], *(trained(splits, candidates[best], seed=seed) for seed in range(1, seeds))]
            figures.update(_keys(name, [judge.score(run.encoder()) for run in chosen], base))
            figures[f"{name}_learning_rate"] = candidates[best].learning_rate
            for share in SHARES:
                score = judge.score(chosen[0].encoder(share))
                frontier.append({"objective": name, "share": share, **score.against(base)})
            keep()


def _recipes(shipped: Finetune) -> Iterator[tuple[str, list[Finetune]]]:
    """Each objective with the recipes it may choose from, the budget being the shipped one's."""
    yield "default", [shipped]
    for name in sorted(set(OBJECTIVES) - {shipped.objective}):
        own = shipped.model_dump() | AS_PUBLISHED | {"objective": name, "weights": {}}
        yield name, [Finetune.model_validate(own | {"learning_rate": rate}) for rate in RATES]


def _keys(name: str, scores: list[Score], base: Score) -> dict[str, Any]:
    """Means over the seeds, `{name}_{column}`; raw values and the first seed's intervals beside them."""
    raw = [score.against(base) for score in scores]
    means = {f"{name}_{column}": statistics.mean(values[column] for values in raw) for column in COLUMNS}
    before = {f"base_{column}": value for column, value in base.against(base).items()}
    return means | before | {f"{name}_samples": raw, f"{name}_intervals": scores[0].intervals()}


def _table(figures: dict[str, Any]) -> None:
    names = [key.removesuffix("_samples") for key in figures if key.endswith("_samples")]
    print(f"{'':<12}" + "".join(f"{column:>23}" for column in COLUMNS))
    for name in names:
        print(f"{name:<12}" + "".join(f"{figures[f'{name}_{column}']:>23.3f}" for column in COLUMNS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="score the shipped adapter on fresh scenes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--frontier", type=Path, metavar="FILE", help="write harm against utility here")
    parser.add_argument("--steps", type=int, help="of every training (default: those of params.yaml)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings an objective (default: 3)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = resolve_setting(load_settings(), "finetune", "precision", default_device())
    data = Path(settings.data.path)
    recipe = settings.finetune.model_copy(update={"steps": options.steps or settings.finetune.steps})
    budget = {} if options.quick else {"steps": recipe.steps, "seeds": options.seeds}
    machine = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "threads": 1}
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    figures, points = _kept(options, budget) if budget else ({}, [])
    figures |= machine | versions | budget

    def keep() -> None:
        _write(options.json, figures)
        _write(options.frontier, {"points": points})

    try:
        if options.quick:
            figures |= quick(data, points if options.frontier else None)
        else:
            full(data, recipe, options.seeds, figures, points, keep)
    except SafeclipError as error:
        sys.exit(f"error: {error}")
    keep()
    _table(figures)


def _kept(options: argparse.Namespace, budget: dict[str, int]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures and points of an earlier run of the same budget; nothing if there is none."""
    if not options.json or not options.json.exists():
        return {}, []
    figures = json.loads(options.json.read_text(encoding="utf-8"))
    if {name: figures.get(name) for name in budget} != budget:
        return {}, []
    points = []
    if options.frontier and options.frontier.exists():
        points = json.loads(options.frontier.read_text(encoding="utf-8"))["points"]
    return figures, points


def _write(path: Path | None, content: dict[str, Any]) -> None:
    if path is None:
        return
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


if __name__ == "__main__":
    main()
