"""From attacked queries to numbers: one row a query and attack, and one line an attack with its intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from safeclip.intervals import Resampling, contrast_interval, proportion_interval
from safeclip.records import OUTCOMES
from safeclip.redteam.measure import Attacked

MODELS = ("base", "candidate")


def outcome_rows(attacked: Sequence[Attacked]) -> pa.Table:
    """`red_team.ATTACK.success` of every query that counts, by model (OUTCOMES)."""
    rows = [
        {
            "id": query.id,
            "metric": f"red_team.{attack.name}.success",
            "categories": list(query.categories),
            **{model: bool(attack.success[model][place]) for model in MODELS},
        }
        for attack in attacked
        for place, query in enumerate(attack.queries)
    ]
    return pa.Table.from_pylist(rows, schema=OUTCOMES)


def attack_line(attack: Attacked, how: Resampling) -> dict[str, Any]:
    """One attack: success by model and its paired change, the same unattacked, and what it undoes.

    `undone` is the share of the queries that the model redirects unattacked which the attack brings back; its
    n differs by model, so it is not paired. It is missing where the model redirects none.
    """
    name = f"red_team.{attack.name}.success"
    line: dict[str, Any] = {
        "name": attack.name,
        "kind": attack.access,
        "modality": attack.modality,
        "budget": attack.budget,
        "n": len(attack.queries),
        "destroyed": attack.destroyed,
        "change": contrast_interval(
            attack.success["candidate"], attack.success["base"], how, name=name
        ).as_dict(),
        "plain": {model: round(float(attack.plain[model].mean()), 6) for model in MODELS},
        "undone": {},
    }
    for model in MODELS:
        line[model] = proportion_interval(attack.success[model], how, name).as_dict()
        redirected = ~attack.plain[model]
        if redirected.any():
            undone = attack.success[model][redirected]
            line["undone"][model] = proportion_interval(undone, how, f"{name}.undone").as_dict()
    return line
