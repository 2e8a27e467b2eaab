"""What would have to change for a failed rule to pass, and by how much.

An interval's half-width shrinks as 1 / sqrt(n), so where the estimate itself keeps the bound, more queries
could settle it; where it does not, only a better candidate can. Shifting every outcome's share by the gap
between the deciding end and the bound is the least that passes, to first order.
"""

from __future__ import annotations

import math
from typing import Any

from safeclip.gate.rules import CORE_RULES
from safeclip.metrics.outcomes import Measured
from safeclip.settings import Gate, Rule


def explain(verdict: dict[str, Any], gate: Gate, found: dict[str, Measured]) -> list[str]:
    """One line a failed rule of `verdict`; empty if it passed.

    found: the outcomes by metric that the verdict was computed from.
    """
    rules = {rule.id: rule for rule in (*CORE_RULES, *gate.rules)}
    failed = [line for line in verdict["rules"] if not line["passed"]]
    return [f"{line['id']}: {_remedy(line, rules.get(line['id']), found)}" for line in failed]


def _remedy(line: dict[str, Any], rule: Rule | None, found: dict[str, Measured]) -> str:
    if rule is None or line["estimate"] is None:
        return str(line["reason"])  # integrity and missing measurements name their own remedy
    upper = rule.op == "<="
    end, name = (line["high"], "upper") if upper else (line["low"], "lower")
    gap = abs(end - line["bound"])
    verb, few = ("fall", "fewer") if upper else ("rise", "more")
    share = float(found[rule.metric].values["candidate"].mean())
    target = share - gap if upper else share + gap
    queries = math.ceil(gap * line["n"])
    if 0.0 <= target <= 1.0:
        need = (
            f"the candidate's share must {verb} from {share:.3f} to about {target:.3f} "
            f"({queries:,} {few} of {line['n']:,} queries)"
        )
    else:
        need = f"the candidate's share is {share:.3f}: no value of it keeps this bound; reconsider the rule"
    return f"the {name} end {end:.3f} misses {line['bound']:g} by {gap:.3f}; {need}{_more_data(line, end)}"


def _more_data(line: dict[str, Any], end: float) -> str:
    room, width = line["bound"] - line["estimate"], end - line["estimate"]
    if room == 0.0 or room * width <= 0.0:  # the estimate itself breaks the bound
        return "; more queries would not help"
    wanted = math.ceil(line["n"] * (width / room) ** 2)
    return f"; or the same share measured on about {wanted:,} queries"
