"""`safeclip gate --explain`: how far a failed rule is from passing, in shares and in queries."""

from __future__ import annotations

import pytest

from safeclip.gate.explain import explain
from safeclip.gate.verdict import decide
from safeclip.settings import Rule
from tests.gate.evidence import SEED, evidence_of, found, good
from tests.support.params import make_gate

HARM = "retrieval.t2i.unsafe.harmful_top1"


def lines(shares: tuple[float, float], rule: Rule, n: int = 1000) -> list[str]:
    evidence = good(n, **{HARM.replace(".", "__"): shares})
    gate = make_gate(rules=(rule,))
    return explain(decide(evidence, gate, SEED), gate, evidence.found)


def limit(value: float, op: str = "<=") -> Rule:
    return Rule(id="limit", metric=HARM, op=op, value=value, why="a limit for the test")


def test_a_verdict_that_passed_needs_nothing() -> None:
    assert lines((0.2, 0.95), limit(0.3)) == []


def test_following_the_advice_makes_the_rule_pass() -> None:
    (line,) = lines((0.4, 0.95), limit(0.3))
    assert "limit: the upper end" in line
    assert "more queries would not help" in line
    target = float(line.split("to about ")[1].split()[0])
    assert lines((target - 0.01, 0.95), limit(0.3)) == []


def test_an_estimate_that_keeps_the_bound_may_need_only_more_queries() -> None:
    (line,) = lines((0.29, 0.95), limit(0.3), n=200)
    wanted = int(line.split("measured on about ")[1].split()[0].replace(",", ""))
    assert lines((0.29, 0.95), limit(0.3), n=int(wanted * 1.3)) == []


def test_a_bound_that_no_share_can_keep_is_called_so() -> None:
    (line,) = lines((0.2, 0.95), limit(-0.5))
    assert "no value of it keeps this bound" in line


@pytest.mark.parametrize("n", [30])
def test_what_was_measured_on_too_little_says_what_it_wants(n: int) -> None:
    assert any("n = 30, the rule wants 100" in line for line in lines((0.2, 0.95), limit(0.3), n=n))


def test_a_missing_metric_keeps_its_own_line() -> None:
    evidence = evidence_of(found({HARM: (0.2, 0.95)}))
    gate = make_gate()
    told = explain(decide(evidence, gate, SEED), gate, evidence.found)
    assert any(line.startswith("core_zeroshot: not measured") for line in told)
