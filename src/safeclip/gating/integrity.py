"""Core rules about the evidence itself: nothing that a reviewer reads may differ from what the outcomes give.

metrics.json states numbers and intervals that people read and that the page shows. Every one of them is
computed again from the outcomes; the files it names are held against their digests.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from safeclip.gating.rules import TOLERANCE, RuleResult, is_number, lookup, same_number
from safeclip.intervals import Interval, Resampling
from safeclip.outcomes import MODELS, Measured

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
    for metric, measured in found.items():
        if not metric.startswith(_PARTS):
            counts.setdefault(metric.rpartition(".")[0], {})[metric] = measured.n
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
