"""params.yaml: complete, and every fault in it one clear line."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from safeclip.core.artifacts import SCHEMA
from safeclip.core.errors import SettingsError
from safeclip.settings import load_settings, schema
from tests.support.params import make_settings

ROOT = Path(__file__).resolve().parents[1]


def test_params_yaml_is_valid() -> None:
    assert load_settings(ROOT / "params.yaml") == make_settings()


def test_the_committed_schema_is_the_models_and_params_yaml_names_it() -> None:
    first = (ROOT / "params.yaml").read_text().splitlines()[0]
    assert first == f"# yaml-language-server: $schema={SCHEMA}"
    assert (ROOT / SCHEMA).read_text() == schema(), "run `python -m safeclip.settings`"


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
            "render_images: {max_dropped_share: 1.5}\n",
            ["`render_images.max_dropped_share`", "1.5", "less than or equal to 1"],
        ),
        (
            "gate: {rules: [{id: a, metric: m, op: '<=', why: because it must hold}]}\n",
            ["gate.rules.0", "value"],
        ),
        ('finetune: {steps: "7"}\n', ["`finetune.steps`", "'7'", "integer"]),
        ('finetune: {compile: "yes"}\n', ["`finetune.compile`", "'yes'", "boolean"]),
        ('finetune: {learning_rate: "1"}\n', ["`finetune.learning_rate`", "'1'", "number"]),
        ("- a\n- b\n", ["must hold sections"]),
        ("seed: [1\n", ["not valid YAML"]),
        ("seed: 1\nseed: 2\n", ["not valid YAML"]),
    ],
)
def test_a_fault_is_one_line_that_names_it(tmp_path: Path, text: str, named: list[str]) -> None:
    (tmp_path / "params.yaml").write_text(text if text.startswith(("-", "seed")) else merged(text))
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path / "params.yaml")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for part in ["params.yaml", *named]:
        assert part in message


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    del params["finetune"]["steps"]
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    with pytest.raises(SettingsError, match=r"`finetune\.steps` is missing"):
        load_settings(tmp_path / "params.yaml")


def test_a_whole_number_is_a_number_and_a_list_is_a_tuple() -> None:
    settings = make_settings(finetune={"learning_rate": 1}, gate={"rules": []})
    assert settings.finetune.learning_rate == 1.0
    assert settings.gate.rules == ()


def merged(text: str) -> str:
    """params.yaml with one section's keys of `text` replaced or added."""
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    for section, values in YAML(typ="safe").load(text).items():
        params[section] = {**params.get(section, {}), **values}
    stream = StringIO()
    YAML(typ="safe").dump(params, stream)
    return stream.getvalue()


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such file; run from the project's root"):
        load_settings(tmp_path / "params.yaml")
