"""The stages embed_teacher and finetune on a tiny project: files in, files out, the same bytes twice."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from safeclip.core.errors import DataError, ModelError
from safeclip.core.records import QUADRUPLETS, write_table
from safeclip.encoders.lora import load_candidate
from safeclip.stages.embed_teacher import embed_teacher
from safeclip.stages.finetune import finetune
from tests.support.params import make_settings
from tests.training.tiny import tiny_table, write_tiny_encoder

SETTINGS = make_settings(
    finetune={
        "lora": {"rank": 4}, "steps": 6, "batch_size": 8, "precision": "float32", "validate_every": 3,
    }
)  # fmt: skip
DATASET = Path("results/validate_data/dataset")
TAXONOMY = """
categories: [violence]
concepts:
  - {id: published-04, name: weapons, policy: use, reason: a category of its own,
     phrases: [{text: a gun, categories: [violence]}, {text: the bomb, categories: [violence]}]}
"""
RESULTS = ("adapter.safetensors", "last.safetensors", "history.csv", "validation.csv", "metrics.json")


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiny_encoder(Path("data/base_encoder"))
    Path("data/taxonomy.yaml").write_text(TAXONOMY)
    for split, rows in (("train", 20), ("val", 10), ("test", 10)):
        write_table(DATASET / f"{split}-00000.parquet", tiny_table(rows, split), QUADRUPLETS)
    return tmp_path


def test_both_stages_run_and_a_second_run_writes_the_same_bytes(project):
    embed_teacher(SETTINGS)
    finetune(SETTINGS)
    first = [Path("results/finetune", name).read_bytes() for name in RESULTS]
    finetune(SETTINGS)
    assert [Path("results/finetune", name).read_bytes() for name in RESULTS] == first
    assert load_candidate("data/base_encoder", Path("results/finetune/adapter.safetensors")).embed_dim == 16
    assert not any(Path("work/finetune").iterdir())


def test_history_has_every_step_and_metrics_compare_with_the_base(project):
    embed_teacher(SETTINGS)
    finetune(SETTINGS)
    with Path("results/finetune/history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert [row["step"] for row in history] == ["1", "2", "3", "4", "5", "6"]
    assert history[5]["val_harmful_t2i"] != ""
    assert history[4]["val_harmful_t2i"] == ""
    with Path("results/finetune/validation.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["0", "3", "6"]
    metrics = json.loads(Path("results/finetune/metrics.json").read_text())
    assert metrics["rows"] == {"train": 20, "val": 10}
    assert metrics["val"]["base"].keys() == metrics["val"]["candidate"].keys()


def test_embeddings_of_an_earlier_dataset_or_encoder_are_refused(project):
    embed_teacher(SETTINGS)
    write_table(DATASET / "train-00000.parquet", tiny_table(19), QUADRUPLETS)
    with pytest.raises(DataError, match="other rows"):
        finetune(SETTINGS)
    write_table(DATASET / "train-00000.parquet", tiny_table(20), QUADRUPLETS)
    write_tiny_encoder(Path("data/base_encoder"), seed=1)
    with pytest.raises(ModelError, match="another encoder"):
        finetune(SETTINGS)


@pytest.mark.servers
def test_two_processes_started_by_the_stage_train_nearly_the_same_adapter(project):
    """The real command: it becomes torchrun, one rank writes."""
    embed_teacher(SETTINGS)
    factors = []
    for processes in (1, 2):
        recipe = {"lora": {"rank": 4}, "steps": 6, "batch_size": 8, "validate_every": 3}
        params = {"finetune": {**recipe, "precision": "float32", "processes": processes}}
        Path("params.yaml").write_text(json.dumps(params))
        command = [sys.executable, "-m", "safeclip.stages.finetune"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("step 6/6: ") == 1
        factors.append(load_file("results/finetune/last.safetensors"))
    assert factors[0].keys() == factors[1].keys()
    assert all(torch.allclose(value, factors[1][name], atol=1e-4) for name, value in factors[0].items())
