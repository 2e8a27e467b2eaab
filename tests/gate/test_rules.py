"""Properties that hold for any rule and any outcomes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from safeclip.gate.rules import check_rule
from safeclip.gate.verdict import decide
from safeclip.metrics.intervals import Resampling
from safeclip.metrics.outcomes import Measured
from safeclip.settings import Gate, Rule
from tests.gate.evidence import SEED, evidence_of, good
from tests.support.params import make_gate

METRIC = "zeroshot.top1"
INTERVALS = {"bootstrap": 1000, "confidence": 0.95}
rules = st.builds(
    Rule,
    id=st.just("any"),
    metric=st.just(METRIC),
    against=st.just("base"),
    op=st.sampled_from(["<=", ">="]),
    factor=st.floats(0, 2),
    offset=st.floats(-1, 1),
    min_n=st.integers(1, 50),
    why=st.just("whatever the reason is"),
)
outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80)


@settings(deadline=None, max_examples=200)
@given(rule=rules, pairs=outcomes)
def test_a_pass_means_enough_queries_and_an_estimate_within_the_bound(
    rule: Rule, pairs: list[tuple[bool, bool]]
) -> None:
    ours, theirs = (np.array(column, dtype=bool) for column in zip(*pairs, strict=True))
    evidence = evidence_of({METRIC: Measured(METRIC, {"candidate": ours, "base": theirs})})
    result = check_rule(rule, evidence.found, evidence.metrics, False, Resampling(SEED))
    json.dumps(result.as_dict(), allow_nan=False)
    if len(pairs) < rule.min_n:
        assert not result.passed
        return
    estimate = ours.mean() - rule.factor * theirs.mean()
    assert result.low is not None
    assert result.high is not None
    assert result.low - 1e-6 <= estimate <= result.high + 1e-6
    if result.passed:
        assert estimate <= rule.offset + 1e-6 if rule.op == "<=" else estimate >= rule.offset - 1e-6


@settings(deadline=None, max_examples=50)
@given(rule=rules, share=st.floats(0.05, 0.95), wider=st.floats(0, 1))
def test_a_looser_bound_never_turns_a_pass_into_a_failure(rule: Rule, share: float, wider: float) -> None:
    ours, theirs = np.arange(200) < 200 * share, np.arange(200) % 2 == 0
    evidence = evidence_of({METRIC: Measured(METRIC, {"candidate": ours, "base": theirs})})
    loose = rule.offset + wider if rule.op == "<=" else rule.offset - wider
    looser = rule.model_copy(update={"offset": loose})
    how = Resampling(SEED)
    if check_rule(rule, evidence.found, evidence.metrics, False, how).passed:
        assert check_rule(looser, evidence.found, evidence.metrics, False, how).passed


@settings(deadline=None, max_examples=30)
@given(params=st.lists(rules, max_size=1))
def test_whatever_params_say_the_verdict_is_the_conjunction(params: list[Rule]) -> None:
    verdict = decide(good(), make_gate(rules=tuple(params)), SEED)
    assert verdict["passed"] == all(rule["passed"] for rule in verdict["rules"])
    assert verdict == decide(good(), make_gate(rules=tuple(params)), SEED)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"id": "core_zeroshot"}, "belongs to the core set"),
        ({"against": "number"}, "`value` is needed"),
        ({"value": 0.5}, "`value` is needed"),
        ({"op": "<"}, "op"),
        ({"min_n": 0}, "min_n"),
        ({"offset": float("nan")}, "offset"),
        ({"factor": -1.0}, "factor"),
        ({"why": "because"}, "why"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_an_impossible_rule_is_refused_before_anything_runs(changes: dict, line: str) -> None:
    rule = {"id": "any", "metric": METRIC, "against": "base", "op": "<=", "why": "whatever it is"} | changes
    with pytest.raises(ValidationError, match=line):
        Gate.model_validate(INTERVALS | {"rules": [rule]})


def test_two_rules_of_one_name_are_refused() -> None:
    rule = {"id": "any", "metric": METRIC, "against": "base", "op": "<=", "why": "whatever it is"}
    with pytest.raises(ValidationError, match="two rules have the id"):
        Gate.model_validate(INTERVALS | {"rules": [rule, rule]})


def test_intervals_cannot_be_narrowed_from_params() -> None:
    with pytest.raises(ValidationError, match="confidence"):
        Gate.model_validate(INTERVALS | {"rules": [], "confidence": 0.5})
