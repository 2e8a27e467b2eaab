"""The section `gate` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from safeclip.settings.section import Positive, Section, Weight


class Rule(Section):
    """One gate rule: the interval's end nearer to failure must keep the bound.

    `against: number` bounds the candidate's share by `value`. Against a model it bounds
    `candidate - factor * model` by `offset`, paired by query. `against: production` is not applicable only
    while production.json says that nothing was ever in production. With `minus`, a number bounds the
    candidate's share of `metric` minus its share of that other metric, paired by item.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    metric: str  # dotted path below `candidate` in metrics.json, or `categories.CATEGORY.` and such a path
    against: Literal["number", "base", "production"] = "number"
    op: Literal["<=", ">="]
    factor: Weight = 1.0
    offset: float = 0.0
    value: float | None = None  # the bound itself, for `against: number`
    minus: str | None = (
        None  # another metric of the same items: the candidate's gap between the two is bounded
    )
    min_n: Positive = 100
    why: Annotated[str, Field(min_length=10)]

    @model_validator(mode="after")
    def _value_belongs_to_numbers(self) -> Rule:
        if (self.against == "number") != (self.value is not None):
            raise ValueError("`value` is needed with `against: number`, and only there")
        if self.minus is not None and self.against != "number":
            raise ValueError("`minus` is a gap within the candidate; use it with `against: number`")
        return self


class Gate(Section):
    """Rules on top of the core set in code, which params cannot remove or loosen."""

    rules: tuple[Rule, ...] = ()
    bootstrap: Annotated[int, Field(ge=1000)] = 1000
    confidence: Annotated[float, Field(ge=0.95, lt=1.0)] = 0.95

    @model_validator(mode="after")
    def _ids_are_distinct_and_not_core(self) -> Gate:
        ids = [rule.id for rule in self.rules]
        for rule_id in ids:
            if ids.count(rule_id) > 1:
                raise ValueError(f"two rules have the id {rule_id!r}; rename one")
            if rule_id.startswith("core_"):
                raise ValueError(f"the id {rule_id!r} belongs to the core set; rename the rule")
        return self
