"""How a candidate's rules differ from production's, and which differences make the gate easier to pass."""

from __future__ import annotations

from dataclasses import dataclass

from safeclip.gating.rules import bound
from safeclip.settings.gate import Gate, Rule

_WEAKER = {"<=": 1.0, ">=": -1.0}


@dataclass(frozen=True)
class Difference:
    """One rule that is not as it was; `loosened` if candidates pass more easily now."""

    id: str
    what: str
    loosened: bool


def compare_rules(before: Gate, after: Gate) -> list[Difference]:
    """Differences from production's rules to the candidate's, loosened ones first, then by id."""
    old, new = ({rule.id: rule for rule in gate.rules} for gate in (before, after))
    found = [Difference(name, "removed", True) for name in old.keys() - new.keys()]
    found += [Difference(name, "added", False) for name in new.keys() - old.keys()]
    found += [_changed(old[name], new[name]) for name in old.keys() & new.keys() if old[name] != new[name]]
    if before.confidence != after.confidence:
        text = f"confidence {before.confidence:g} -> {after.confidence:g}"
        found.append(Difference("confidence", text, after.confidence < before.confidence))
    return sorted(found, key=lambda difference: (not difference.loosened, difference.id))


def _changed(old: Rule, new: Rule) -> Difference:
    fields = [name for name in type(old).model_fields if getattr(old, name) != getattr(new, name)]
    what = ", ".join(f"{name} {getattr(old, name)} -> {getattr(new, name)}" for name in fields)
    return Difference(new.id, what, set(fields) != {"why"} and not _as_strict(old, new))


def _as_strict(old: Rule, new: Rule) -> bool:
    """Whether whatever the new rule passes, the old one would have passed (as far as their form tells)."""
    form = ("metric", "against", "op", "minus")
    if any(getattr(old, name) != getattr(new, name) for name in form) or new.min_n < old.min_n:
        return False
    weaker = _WEAKER[new.op]
    factor = weaker * (new.factor - old.factor)  # shares are not negative: a larger factor widens `<=`
    return weaker * (bound(new) - bound(old)) <= 0.0 and factor <= 0.0
