"""All rules -> the verdict. Nothing in metrics.json is believed: every number is computed again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from safeclip.gating.core import CORE_RULES
from safeclip.gating.integrity import check_digests, check_intervals, check_metrics, check_outcomes
from safeclip.gating.rules import check_rule
from safeclip.intervals import Resampling
from safeclip.outcomes import Measured
from safeclip.settings.gate import Gate


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
    """The verdict as DESIGN wants it written: passed only if the core rules and all of params' rules pass."""
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
