"""params.yaml: complete, and every fault in it one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from safeclip.core.errors import SettingsError
from safeclip.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[1]


def keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Dotted names of every setting of a section."""
    found = set()
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= keys(inner, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def written(tree: dict, prefix: str = "") -> set[str]:
    """Dotted names of every value of a YAML tree, except below keys that hold free mappings."""
    found = set()
    for name, value in tree.items():
        nested = isinstance(value, dict) and f"{prefix}{name}" not in keys(Settings)
        found |= written(value, f"{prefix}{name}.") if nested else {prefix + name}
    return found


def test_params_yaml_is_valid_and_lists_every_setting() -> None:
    load_settings(ROOT / "params.yaml")
    assert written(YAML(typ="safe").load(ROOT / "params.yaml")) == keys(Settings)


def test_settings_cannot_be_changed_after_loading() -> None:
    settings = load_settings(ROOT / "params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("finetun: {}\n", ["unknown key `finetun`"]),
        ("finetune: {stepz: 3}\n", ["unknown key `finetune.stepz`"]),
        ("finetune: {steps: many}\n", ["`finetune.steps`", "'many'", "integer"]),
        ("finetune: {steps: 0}\n", ["`finetune.steps`", "0", "greater than or equal to 1"]),
        ("finetune: {learning_rate: .nan}\n", ["`finetune.learning_rate`", "finite"]),
        (
            "render_images: {misrender: 1.5}\n",
            ["`render_images.misrender`", "1.5", "less than or equal to 1"],
        ),
        (
            "gate: {rules: [{id: a, metric: m, op: '<=', why: because it must hold}]}\n",
            ["gate.rules.0", "value"],
        ),
        ("- a\n- b\n", ["must hold sections"]),
        ("seed: [1\n", ["not valid YAML"]),
        ("seed: 1\nseed: 2\n", ["not valid YAML"]),
    ],
)
def test_a_fault_is_one_line_that_names_it(tmp_path: Path, text: str, named: list[str]) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path / "params.yaml")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for part in ["params.yaml", *named]:
        assert part in message


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such file; run from the project's root"):
        load_settings(tmp_path / "params.yaml")
