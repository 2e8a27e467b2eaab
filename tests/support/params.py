"""Settings for tests: those of params.yaml, with some values replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML

from safeclip.settings import Gate, Rule, Settings
from tests.support.toy import PROJECT


def make_settings(**changes: Any) -> Settings:
    """Settings of params.yaml with nested mappings merged in: `make_settings(finetune={"steps": 6})`."""
    params = YAML(typ="safe").load(PROJECT / "params.yaml")
    return Settings.model_validate(_merged(params, changes))


def _merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(tree)
    for key, value in changes.items():
        before = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(before, Mapping)
        merged[key] = _merged(before, value) if both else value
    return merged


def make_gate(rules: Sequence[Rule] = (), **changes: Any) -> Gate:
    """The section `gate` with these rules beside the core set instead of those of params.yaml."""
    return make_settings().gate.model_copy(update={"rules": tuple(rules), **changes})
