"""Register the training objectives by name. Each is a file that opens with its equations and source.

A new objective is a file here and a line in `OBJECTIVES`; nothing else repeats the names.
"""

from collections.abc import Mapping

from safeclip.core.errors import SettingsError
from safeclip.training.objectives import opposed, relative, safe_clip, safer_clip, shield_clip
from safeclip.training.objectives.batch import Batch, Objective, Quadruplets

OBJECTIVES = {
    "opposed": opposed.OBJECTIVE,
    "relative": relative.OBJECTIVE,
    "safe_clip": safe_clip.OBJECTIVE,
    "safer_clip": safer_clip.OBJECTIVE,
    "shield_clip": shield_clip.OBJECTIVE,
}


def find_objective(name: str) -> Objective:
    """Return the objective of this name; a `SettingsError` lists the known ones."""
    if name not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise SettingsError(f"`finetune.objective` = {name!r}: no such objective; known are {known}")
    return OBJECTIVES[name]


def resolve_weights(objective: Objective, overrides: Mapping[str, float]) -> dict[str, float]:
    """Return the objective's weights, some replaced; a `SettingsError` names a loss that it does not have."""
    unknown = sorted(set(overrides) - set(objective.weights))
    if unknown:
        known = ", ".join(sorted(objective.weights))
        raise SettingsError(f"`finetune.weights.{unknown[0]}`: no such loss; this objective has {known}")
    return {**objective.weights, **overrides}


__all__ = ["OBJECTIVES", "Batch", "Objective", "Quadruplets", "find_objective", "resolve_weights"]
