"""One rule against the outcomes: the hypothesis to reject is *not good enough*, so the worse end decides.

For `op: <=` the interval's upper end must keep the bound, for `>=` its lower end. Against a model the
quantity is `candidate - factor * reference` with `offset` as its bound, paired by query; against a number it
is the candidate's share with `value` as its bound. Whatever was not measured fails, and the line says what.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from safeclip.intervals import Interval, Resampling, contrast_interval
from safeclip.outcomes import Measured
from safeclip.settings.gate import Rule

TOLERANCE = 1e-6  # metrics.json is rounded to 6 digits


@dataclass(frozen=True)
class RuleResult:
    """One line of the verdict; numbers are None where nothing could be measured."""

    id: str
    metric: str
    against: str
    n: int
    estimate: float | None
    low: float | None
    high: float | None
    bound: float | None
    passed: bool
    why: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_rule(
    rule: Rule, found: dict[str, Measured], metrics: dict[str, Any], assigned: bool, how: Resampling
) -> RuleResult:
    """Apply one rule.

    found: outcomes by metric, from which everything is computed. metrics: metrics.json, which must say the
    same. assigned: whether anything was ever in production; only if not is such a rule not applicable.
    """
    if rule.against == "production" and not assigned:
        return _without_numbers(rule, True, "not applicable: no version was ever in production")
    fault = _fault(rule, found, metrics)
    if fault:
        return _without_numbers(rule, False, fault, n=_n(rule, found))
    return _judge(rule, quantity(rule, found, how))


def quantity(rule: Rule, found: dict[str, Measured], how: Resampling) -> Interval:
    """The number that the rule bounds, with its interval."""
    measured = found[rule.metric]
    if rule.minus is not None:
        ours, others = measured.values["candidate"], found[rule.minus].values["candidate"]
        return contrast_interval(ours, others, how, name=f"{rule.metric} - {rule.minus}")
    if rule.against == "number":
        return measured.interval("candidate", how)
    return measured.contrast(rule.against, how, rule.factor)


def bound(rule: Rule) -> float:
    """What the quantity is held against."""
    return rule.offset if rule.value is None else rule.value


def lookup(tree: Any, path: str) -> Any:
    """`tree[a][b][c]` for `a.b.c`; None if any step is missing."""
    for part in path.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def same_number(stated: Any, share: float) -> bool:
    """Whether a leaf of metrics.json is this number, up to its rounding."""
    return is_number(stated) and abs(stated - share) <= TOLERANCE


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _fault(rule: Rule, found: dict[str, Measured], metrics: dict[str, Any]) -> str | None:
    """Why the rule cannot be applied, or None."""
    models = ("candidate",) if rule.against == "number" else ("candidate", rule.against)
    for metric in (rule.metric,) if rule.minus is None else (rule.metric, rule.minus):
        fault = _metric_fault(metric, models, rule.min_n, found, metrics)
        if fault:
            return fault
    if rule.minus is not None and found[rule.minus].n != found[rule.metric].n:
        return f"{rule.metric} and {rule.minus} were not measured on the same items"
    return None


def _metric_fault(
    metric: str, models: tuple[str, ...], min_n: int, found: dict[str, Measured], metrics: dict[str, Any]
) -> str | None:
    measured = found.get(metric)
    if measured is None or measured.n == 0:
        return f"not measured: there is no outcome of {metric}"
    if measured.n < min_n:
        return f"measured on too little: n = {measured.n}, the rule wants {min_n}"
    for model in models:
        if model not in measured.values:
            return f"not measured: {model} has no outcome of {metric}"
        fault = _stated_fault(model, metric, measured, metrics)
        if fault:
            return fault
    return None


def _stated_fault(model: str, metric: str, measured: Measured, metrics: dict[str, Any]) -> str | None:
    stated, share = lookup(metrics.get(model), metric), float(measured.values[model].mean())
    if stated is None:
        return f"metrics.json has no {model}.{metric}"
    if not is_number(stated):
        return f"metrics.json: {model}.{metric} = {stated!r} is not a finite number"
    if not same_number(stated, share):
        return f"metrics.json says {model}.{metric} = {stated}, its outcomes say {share:.6f}: it was changed"
    return None


def _judge(rule: Rule, interval: Interval) -> RuleResult:
    limit = bound(rule)
    end, name = (interval.high, "upper") if rule.op == "<=" else (interval.low, "lower")
    passed = end <= limit if rule.op == "<=" else end >= limit
    sign = rule.op if passed else {"<=": ">", ">=": "<"}[rule.op]
    line = f"{_formula(rule)} = {interval.estimate:.3f}; {name} end {end:.3f} {sign} {limit:g}; {rule.why}"
    return RuleResult(
        rule.id, rule.metric, rule.against, **_rounded(interval), bound=limit, passed=passed, why=line
    )


def _formula(rule: Rule) -> str:
    if rule.minus is not None:
        return "candidate's gap"
    if rule.against == "number":
        return "candidate"
    return f"candidate - {'' if rule.factor == 1.0 else f'{rule.factor:g} * '}{rule.against}"


def _rounded(interval: Interval) -> dict[str, Any]:
    return interval.as_dict()


def _without_numbers(rule: Rule, passed: bool, why: str, n: int = 0) -> RuleResult:
    none = None
    return RuleResult(rule.id, rule.metric, rule.against, n, none, none, none, bound(rule), passed, why)


def _n(rule: Rule, found: dict[str, Measured]) -> int:
    return found[rule.metric].n if rule.metric in found else 0
