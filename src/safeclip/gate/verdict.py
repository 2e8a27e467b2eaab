"""Core rules about the evidence itself: nothing that a reviewer reads may differ from what the outcomes give.

metrics.json states numbers and intervals that people read and that the page shows. Every one of them is
computed again from the outcomes; the files it names are held against their digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from safeclip.core import artifacts
from safeclip.core.errors import DataError
from safeclip.core.files import sha256
from safeclip.core.production import PRODUCTION, read_production
from safeclip.core.records import OUTCOMES, read_table
from safeclip.gate.rules import CORE_RULES, TOLERANCE, RuleResult, check_rule, is_number, same_number
from safeclip.metrics.intervals import Interval, Resampling
from safeclip.metrics.outcomes import MODELS, SLICED_OUTCOMES, Measured, lookup, measured
from safeclip.settings import Gate

_FILES = {"candidate_adapter", "outcomes", "production"}
_CONTRASTS = {"change": "base", "change_production": "production"}
_PARTS = ("categories.", "slices.")  # reported for some metrics only, so none of theirs can be missing


def check_digests(metrics: dict[str, Any], digests: dict[str, str]) -> RuleResult:
    """The files on disk are those that evaluation, red team and audit read and wrote."""
    stated = metrics.get("digests")
    names = sorted(_FILES | {name for name in digests if not name.endswith("metrics")})
    wrong = [name for name in names if name not in digests or lookup(stated, name) != digests[name]]
    why = "the files on disk are those evaluated"
    if wrong:
        why = f"not what was evaluated: {', '.join(wrong)}; run evaluate again"
    return _integrity("core_digests", "digests", wrong, len(names), why)


def check_metrics(found: dict[str, Measured], metrics: dict[str, Any]) -> RuleResult:
    """Every number of metrics.json is what the outcomes give, none is missing and none is added."""
    stated = {
        f"{model}.{path}": (model, path, value)
        for model in MODELS
        for path, value in _leaves(metrics.get(model))
    }
    wrong = [
        f"{name} = {value}"
        for name, (model, path, value) in sorted(stated.items())
        if not _holds(found, model, path, value)
    ]
    missing = [
        f"{model}.{metric} is missing"
        for metric, measured in found.items()
        for model in measured.values
        if not metric.startswith(_PARTS) and f"{model}.{metric}" not in stated
    ]
    faults = wrong + missing
    why = _changed(faults) or "every number was recomputed from the outcomes"
    return _integrity("core_metrics", "candidate, base, production", faults, len(stated), why)


def check_outcomes(found: dict[str, Measured]) -> RuleResult:
    """Metrics of one kind of query (`retrieval.t2i.unsafe.`) count equally many: none was left out."""
    counts: dict[str, dict[str, int]] = {}
    for metric, of_metric in found.items():
        if not metric.startswith(_PARTS):
            counts.setdefault(metric.rpartition(".")[0], {})[metric] = of_metric.n
    faults = []
    for kind in counts.values():
        fewest, most = min(kind, key=kind.__getitem__), max(kind.values())
        if kind[fewest] < most:
            faults.append(f"{fewest} has {kind[fewest]} queries where others have {most}")
    why = "every metric of a kind counts the same queries"
    if faults:
        why = f"outcomes were left out: {faults[0]}; run evaluate again"
    return _integrity("core_outcomes", "outcomes", faults, len(counts), why)


def check_intervals(found: dict[str, Measured], metrics: dict[str, Any], confidence: float) -> RuleResult:
    """Every interval of metrics.json is what the outcomes give at the confidence that it states."""
    stated = {
        f"{name}.{path}": (name, path, value)
        for name, tree in _branches(metrics.get("intervals"))
        for path, value in _leaves(tree, until="estimate")
    }
    how, fault = _resampling(metrics.get("resampling"), confidence)
    others, other_fault = _others(metrics.get("resampling"), confidence)
    fault = fault or other_fault
    if how is None or fault:
        return _integrity("core_intervals", "intervals", [fault], len(stated), f"metrics.json: {fault}")
    wrong = [
        f"{where} is not what the outcomes give"
        for where, (name, path, value) in sorted(stated.items())
        if not _same_interval(value, _interval(found, name, path, others.get(path.split(".")[0], how)))
    ]
    missing = [
        f"{model}.{path} has no interval"
        for model in MODELS
        for path, _ in _leaves(metrics.get(model))
        if f"{model}.{path}" not in stated
    ]
    faults = wrong + missing
    why = _changed(faults) or "every interval was recomputed from the outcomes"
    return _integrity("core_intervals", "intervals", faults, len(stated), why)


def _resampling(stated: Any, confidence: float) -> tuple[Resampling | None, str]:
    """How evaluation resampled, or what is wrong with what it says."""
    keys = ("seed", "replicates", "confidence")
    if not isinstance(stated, dict) or not all(is_number(stated.get(key)) for key in keys):
        return None, "it does not say how it resampled; an older version wrote it, run evaluate again"
    if stated["confidence"] < confidence:
        asked = f"evaluate.confidence is {stated['confidence']:g}, the gate's {confidence:g}"
        return None, f"its intervals are narrower than the gate's ({asked}); widen them"
    if stated["seed"] < 0 or not 100 <= stated["replicates"] <= 1_000_000 or stated["confidence"] >= 1.0:
        return None, f"impossible resampling {stated}; run evaluate again"
    return Resampling(int(stated["seed"]), int(stated["replicates"]), float(stated["confidence"])), ""


def _others(stated: Any, confidence: float) -> tuple[dict[str, Resampling], str]:
    """How the stages beside evaluation resampled, by their name, or what is wrong with what one says."""
    found = {}
    for stage, how in _branches(stated):
        if isinstance(how, dict) or how is None:
            resampling, fault = _resampling(how, confidence)
            if resampling is None:
                return {}, f"{stage}: {fault}"
            found[stage] = resampling
    return found, ""


def _interval(found: dict[str, Measured], name: str, path: str, how: Resampling) -> Interval | None:
    measured = found.get(path)
    if measured is None or not measured.n:
        return None
    if name in _CONTRASTS:
        reference = _CONTRASTS[name]
        return measured.contrast(reference, how) if reference in measured.values else None
    return measured.interval(name, how) if name in measured.values else None


def _same_interval(stated: Any, again: Interval | None) -> bool:
    if again is None or not isinstance(stated, dict):
        return False
    right = again.as_dict()
    return set(stated) == set(right) and all(
        is_number(stated[key]) and abs(stated[key] - value) <= TOLERANCE for key, value in right.items()
    )


def _holds(found: dict[str, Measured], model: str, path: str, value: Any) -> bool:
    measured = found.get(path)
    if measured is None or not measured.n or model not in measured.values:
        return False
    return same_number(value, float(measured.values[model].mean()))


def _leaves(tree: Any, prefix: str = "", until: str | None = None) -> Iterator[tuple[str, Any]]:
    """Dotted paths and values, or the objects that have the key `until`; None stands for a model that was not
    evaluated and has no leaf."""
    if tree is None and not prefix:
        return
    if not isinstance(tree, dict) or until in tree:
        yield prefix, tree
        return
    for name, below in tree.items():
        yield from _leaves(below, f"{prefix}.{name}".lstrip("."), until)


def _branches(tree: Any) -> list[tuple[str, Any]]:
    return list(tree.items()) if isinstance(tree, dict) else []


def _changed(faults: list[str]) -> str:
    """What is wrong with metrics.json, or nothing."""
    if not faults:
        return ""
    return f"metrics.json was changed: {faults[0]} ({len(faults)} such); run evaluate again"


def _integrity(rule_id: str, metric: str, faults: list[str], n: int, why: str) -> RuleResult:
    count = float(len(faults))
    return RuleResult(rule_id, metric, "number", n, count, count, count, 0.0, not faults and n > 0, why)


# What the gate looks at, read from where `evaluate`, `red_team`, `audit` and `finetune` left it.


SLOW_EVIDENCE = ("red_team", "audit")
"""Stages that leave outcomes and metrics of their own, under names that begin with the stage's. Where they
are missing, whatever rule asks for them finds nothing measured, and fails."""
LINES = {"red_team": ("attacks", "success"), "audit": ("groups", "redirected")}
"""Where such a stage states its intervals: the list of lines, and the outcome that a line is about."""
SAME_AS_EVALUATED = ("base_model", "candidate_model", "data", "judge")


def read_evidence(root: Path = Path()) -> Evidence:
    """What stands in `root`/results, with the digests of the files as they are now."""
    evidence = Evidence(
        found=measured(_counted_once(read_table(root / artifacts.outcomes("evaluate"), SLICED_OUTCOMES))),
        metrics=_read_metrics(root / artifacts.metrics("evaluate")),
        assigned=read_production(root / PRODUCTION).assigned,
        digests={
            "metrics": _digest(root / artifacts.metrics("evaluate")),
            "outcomes": _digest(root / artifacts.outcomes("evaluate")),
            "production": _digest(root / PRODUCTION),
            "candidate_adapter": _digest(root / artifacts.ADAPTER),
        },
    )
    for stage in SLOW_EVIDENCE:
        if (root / "results" / stage).is_dir():
            evidence = _joined(evidence, stage, root / "results" / stage)
    return evidence


def _joined(evidence: Evidence, stage: str, folder: Path) -> Evidence:
    """`evidence` with a further stage's outcomes and numbers; its digests carry the stage's name."""
    found = measured(_counted_once(read_table(folder / "outcomes.parquet", OUTCOMES)))
    metrics = _read_metrics(folder / "metrics.json")
    foreign = [name for name in found if not _own_name(name).startswith(f"{stage}.")]
    if foreign:
        raise DataError(f"{folder}: holds outcomes of {foreign[0]}, which are not its own; run {stage} again")
    evaluated, stated = _section(evidence.metrics, "digests"), _section(metrics, "digests")
    expected = {name: evaluated[name] for name in SAME_AS_EVALUATED if name in evaluated}
    expected |= {"outcomes": _digest(folder / "outcomes.parquet")}
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
        | {f"{stage}_metrics": _digest(folder / "metrics.json")},
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
        raise DataError(f"outcomes: query {query} stands twice under {metric}; run evaluate again")
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


# All rules -> the verdict. Nothing in metrics.json is believed: every number is computed again.


@dataclass(frozen=True)
class Evidence:
    """What the gate looks at.

    found: outcomes by metric. metrics: metrics.json as read. assigned: production.json says something is or
    was in production. digests: sha256 of the very files read, by the names that metrics.json states too
    (`outcomes`, `candidate_adapter`, `production`), and of the metrics files themselves.
    """

    found: dict[str, Measured]
    metrics: dict[str, Any]
    assigned: bool
    digests: dict[str, str]


def decide(evidence: Evidence, gate: Gate, seed: int) -> dict[str, Any]:
    """Return the verdict as verdict.json holds it: passed only if all core rules and params' rules pass."""
    how = Resampling(seed, gate.bootstrap, gate.confidence)
    results = [
        check_digests(evidence.metrics, evidence.digests),
        check_outcomes(evidence.found),
        check_metrics(evidence.found, evidence.metrics),
        check_intervals(evidence.found, evidence.metrics, gate.confidence),
    ]
    results += [
        check_rule(rule, evidence.found, evidence.metrics, evidence.assigned, how)
        for rule in (*CORE_RULES, *gate.rules)
    ]
    return {
        "passed": all(result.passed for result in results),
        "rules": [result.as_dict() for result in results],
        "digests": {
            **evidence.digests,
            "params_gate": digest_of(gate.model_dump(mode="json")),
            "core_rules": digest_of([rule.model_dump(mode="json") for rule in CORE_RULES]),
        },
    }


def digest_of(value: Any) -> str:
    """sha256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def rule_lines(verdict: dict[str, Any]) -> list[str]:
    """A short table: one line a rule with its numbers, failed ones first, the verdict last."""
    rows = sorted(verdict["rules"], key=lambda rule: rule["passed"])
    width = max(len(rule["id"]) for rule in rows)
    lines = [f"{_mark(rule)}  {rule['id']:<{width}}  {rule['figures'] or rule['reason']}" for rule in rows]
    failed = sum(not rule["passed"] for rule in rows)
    outcome = "passed" if verdict["passed"] else "failed"
    return [*lines, f"verdict: {outcome}, {failed} of {len(rows)} rules failed"]


def _mark(rule: dict[str, Any]) -> str:
    if rule["passed"] and rule["estimate"] is None:
        return "n/a "
    return "pass" if rule["passed"] else "FAIL"
