"""What vLLM is given: the adapter beside its base on a GPU, the merged weights without one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from safeclip.core.errors import ModelError
from safeclip.synthesis.language_model import load_model, load_rewriter, load_tokenizer
from safeclip.synthesis.vllm_server import served_model
from tests.support.params import make_settings
from tests.synthesis.tiny import make_model

SETTINGS = make_settings(rewrite_captions={"engine": "vllm", "dtype": "float32"}).rewrite_captions


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def model(made: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """A model's folder and an adapter to spoil, from an empty current folder."""
    monkeypatch.chdir(tmp_path)
    return made[0], Path(shutil.copytree(made[1], tmp_path / "adapter"))


def test_without_a_gpu_the_merged_weights_are_served(model: tuple[str, Path]) -> None:
    folder, adapter = model
    _, merged, _, name = served_model(folder, adapter, SETTINGS)
    assert name == SETTINGS.vllm.model
    tokens = load_tokenizer(merged)("a man carries a lamp", return_tensors="pt")
    ours = load_rewriter(folder, adapter, torch.float32)(**tokens).logits
    assert torch.equal(load_model(merged, torch.float32)(**tokens).logits, ours)


def test_the_merged_folder_follows_its_adapter_and_is_made_once(model: tuple[str, Path]) -> None:
    folder, adapter = model
    first = Path(served_model(folder, adapter, SETTINGS)[1])
    made = (first / "model.safetensors").stat().st_mtime_ns
    assert Path(served_model(folder, adapter, SETTINGS)[1]) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == made
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 99}))
    second = Path(served_model(folder, adapter, SETTINGS)[1])
    assert second != first
    assert [path.name for path in second.parent.iterdir()] == [second.name]  # the disk keeps one


def test_on_a_gpu_the_adapter_is_served(model: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, adapter = model
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 12}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    line = " ".join(served_model(folder, adapter, SETTINGS))
    assert line.startswith(f"--model {folder} --served-model-name base")
    assert f"--lora-modules rewriter={adapter} --max-lora-rank 16" in line  # a rank of 12 needs 16


def test_a_missing_adapter_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no adapter to read here; run the stage tune_rewriter"):
        served_model("folder", tmp_path / "none", SETTINGS)
