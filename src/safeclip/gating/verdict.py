"""All rules -> the verdict. Nothing in metrics.json is believed: every number is computed again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from safeclip.gating.core import CORE_RULES
from safeclip.gating.rules import RuleResult, check_rule, is_number, lookup, same_number
from safeclip.intervals import Resampling
from safeclip.outcomes import MODELS, Measured
from safeclip.settings.gate import Gate


@dataclass(frozen=True)
class Evidence:
    """What the gate looks at.

    found: outcomes by metric. metrics: metrics.json as read. assigned: production.json says something is or
    was in production. digests: sha256 of the very files read, by the names that metrics.json may state too
    (`outcomes`, `candidate_adapter`, `production`).
    """

    found: dict[str, Measured]
    metrics: dict[str, Any]
    assigned: bool
    digests: dict[str, str]


def decide(evidence: Evidence, gate: Gate, seed: int) -> dict[str, Any]:
    """The verdict as DESIGN wants it written: passed only if the core rules and all of params' rules pass."""
    how = Resampling(seed, gate.bootstrap, gate.confidence)
    results = [check_digests(evidence), check_metrics(evidence)]
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


def check_digests(evidence: Evidence) -> RuleResult:
    """Core: the files on disk are those that evaluation read and wrote."""
    stated = evidence.metrics.get("digests")
    wrong = [
        name
        for name in ("candidate_adapter", "outcomes", "production")
        if name not in evidence.digests or lookup(stated, name) != evidence.digests[name]
    ]
    why = "the files on disk are those evaluated"
    if wrong:
        why = f"not what was evaluated: {', '.join(wrong)}; run evaluate again"
    return _integrity("core_digests", "digests", wrong, 3, why)


def check_metrics(evidence: Evidence) -> RuleResult:
    """Core: every number of metrics.json is what the outcomes give, none is missing and none is added."""
    stated = {
        f"{model}.{path}": (model, path, value)
        for model in MODELS
        for path, value in _leaves(evidence.metrics.get(model))
    }
    wrong = [f"{name} = {leaf[2]}" for name, leaf in sorted(stated.items()) if not _holds(evidence, *leaf)]
    missing = [
        f"{model}.{metric} is missing"
        for metric, measured in evidence.found.items()
        for model in measured.values
        if not metric.startswith("categories.") and f"{model}.{metric}" not in stated
    ]
    faults = wrong + missing
    why = "every number was recomputed from the outcomes"
    if faults:
        why = f"metrics.json was changed: {faults[0]} ({len(faults)} such); run evaluate again"
    return _integrity("core_metrics", "candidate, base, production", faults, len(stated), why)


def _holds(evidence: Evidence, model: str, path: str, value: Any) -> bool:
    measured = evidence.found.get(path)
    if measured is None or not measured.n or model not in measured.values or not is_number(value):
        return False
    return same_number(value, float(measured.values[model].mean()))


def _leaves(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted paths and values; None stands for a model that was not evaluated and has no leaf."""
    if tree is None and not prefix:
        return []
    if not isinstance(tree, dict):
        return [(prefix, tree)]
    return [leaf for name, below in tree.items() for leaf in _leaves(below, f"{prefix}.{name}".lstrip("."))]


def _integrity(rule_id: str, metric: str, faults: list[str], n: int, why: str) -> RuleResult:
    count = float(len(faults))
    passed = not faults and n > 0
    return RuleResult(rule_id, metric, "number", n, count, count, count, 0.0, passed, why)


def digest_of(value: Any) -> str:
    """sha256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def rule_lines(verdict: dict[str, Any]) -> list[str]:
    """A short table: one line a rule with its numbers, failed ones first, the verdict last."""
    rows = sorted(verdict["rules"], key=lambda rule: rule["passed"])
    width = max(len(rule["id"]) for rule in rows)
    lines = [
        f"{_mark(rule)}  {rule['id']:<{width}}  {'; '.join(rule['why'].split('; ')[:2])}" for rule in rows
    ]
    failed = sum(not rule["passed"] for rule in rows)
    outcome = "passed" if verdict["passed"] else "failed"
    return [*lines, f"verdict: {outcome}, {failed} of {len(rows)} rules failed"]


def _mark(rule: dict[str, Any]) -> str:
    if rule["passed"] and rule["estimate"] is None:
        return "n/a "
    return "pass" if rule["passed"] else "FAIL"
