"""What the gate looks at, read from where `evaluate`, `red_team`, `audit` and `finetune` left it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from safeclip.errors import DataError
from safeclip.gating.verdict import Evidence
from safeclip.outcomes import MODELS, SLICED_OUTCOMES, measured
from safeclip.production import PRODUCTION, read_production, sha256
from safeclip.records import OUTCOMES, read_table

METRICS = Path("results/evaluate/metrics.json")
OUTCOMES_FILE = Path("results/evaluate/outcomes.parquet")
ADAPTER = Path("results/finetune/adapter.safetensors")
SLOW_EVIDENCE = ("red_team", "audit")
"""Stages that leave outcomes and metrics of their own, under names that begin with the stage's. Where they
are missing, whatever rule asks for them finds nothing measured, and fails."""
LINES = {"red_team": ("attacks", "success"), "audit": ("groups", "redirected")}
"""Where such a stage states its intervals: the list of lines, and the outcome that a line is about."""
SAME_AS_EVALUATED = ("base_model", "candidate_model", "data", "judge")


def read_evidence(root: Path = Path()) -> Evidence:
    """What stands in `root`/results, with the digests of the files as they are now."""
    evidence = Evidence(
        found=measured(_counted_once(read_table(root / OUTCOMES_FILE, SLICED_OUTCOMES))),
        metrics=_read_metrics(root / METRICS),
        assigned=read_production(root / PRODUCTION).assigned,
        digests={
            "metrics": _digest(root / METRICS),
            "outcomes": _digest(root / OUTCOMES_FILE),
            "production": _digest(root / PRODUCTION),
            "candidate_adapter": _digest(root / ADAPTER),
        },
    )
    for stage in SLOW_EVIDENCE:
        if (root / "results" / stage).is_dir():
            evidence = _joined(evidence, stage, root / "results" / stage)
    return evidence


def _joined(evidence: Evidence, stage: str, folder: Path) -> Evidence:
    """`evidence` with a further stage's outcomes and numbers; its digests carry the stage's name."""
    found = measured(_counted_once(read_table(folder / OUTCOMES_FILE.name, OUTCOMES)))
    metrics = _read_metrics(folder / METRICS.name)
    foreign = [name for name in found if not _own_name(name).startswith(f"{stage}.")]
    if foreign:
        raise DataError(f"{folder}: holds outcomes of {foreign[0]}, which are not its own; run {stage} again")
    evaluated, stated = _section(evidence.metrics, "digests"), _section(metrics, "digests")
    expected = {name: evaluated[name] for name in SAME_AS_EVALUATED if name in evaluated}
    expected |= {"outcomes": _digest(folder / OUTCOMES_FILE.name)}
    expected |= {"candidate_adapter": evidence.digests["candidate_adapter"]}
    numbers = {
        model: {**_section(evidence.metrics, model), **_section(metrics, model)} or None for model in MODELS
    }
    intervals = _section(evidence.metrics, "intervals")
    for name, tree in _stated_intervals(stage, metrics).items():
        intervals = intervals | {name: {**_section(intervals, name), stage: tree}}
    how = _section(evidence.metrics, "resampling") | {stage: metrics.get("resampling")}
    all_stated = evaluated | {f"{stage}_{name}": value for name, value in stated.items()}
    return Evidence(
        found={**evidence.found, **found},
        metrics=evidence.metrics
        | numbers
        | {"intervals": intervals, "resampling": how, "digests": all_stated},
        assigned=evidence.assigned,
        digests=evidence.digests
        | {f"{stage}_{name}": value for name, value in expected.items()}
        | {f"{stage}_metrics": _digest(folder / METRICS.name)},
    )


def _stated_intervals(stage: str, metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The intervals that people read in the stage's lines, as `candidate`, `base` and `change` trees."""
    key, outcome = LINES[stage]
    lines = metrics.get(key)
    trees: dict[str, dict[str, Any]] = {}
    for line in lines if isinstance(lines, list) else []:
        for name in ("candidate", "base", "change"):
            if isinstance(line, dict) and name in line:
                trees.setdefault(name, {})[str(line.get("name"))] = {outcome: line[name]}
    return trees


def _own_name(metric: str) -> str:
    """`red_team.jpeg.success` of `categories.violence.red_team.jpeg.success`."""
    return metric.split(".", 2)[2] if metric.startswith("categories.") else metric


def _section(metrics: dict[str, Any], name: str) -> dict[str, Any]:
    value = metrics.get(name)
    return value if isinstance(value, dict) else {}


def _counted_once(outcomes: pa.Table) -> pa.Table:
    """The same outcomes; a query that stands twice under a metric would make its intervals narrower."""
    counts = outcomes.group_by(["metric", "id"]).aggregate([([], "count_all")])
    twice = counts.filter(pc.greater(counts["count_all"], 1))
    if len(twice):
        metric, query = twice["metric"][0].as_py(), twice["id"][0].as_py()
        raise DataError(f"{OUTCOMES_FILE}: query {query} stands twice under {metric}; run evaluate again")
    return outcomes


def _digest(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path}: no such file; run the stage that writes it")
    return sha256(path)


def _read_metrics(path: Path) -> dict[str, Any]:
    """metrics.json; NaN passes here, since the gate names the metric that has it."""
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run {path.parent.name}") from None
    except ValueError as error:
        raise DataError(
            f"{path}: not valid JSON ({str(error).splitlines()[0]}); run {path.parent.name} again"
        ) from None
    if not isinstance(metrics, dict):
        raise DataError(
            f"{path}: must hold an object, not {type(metrics).__name__}; run {path.parent.name} again"
        )
    return metrics
