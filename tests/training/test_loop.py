"""The training loop: frozen teacher, same bytes however often killed, and stops that name their rows."""

from __future__ import annotations

import dataclasses
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from safeclip.core.errors import SettingsError, TrainingError
from safeclip.encoders.lora import adapter_parameters, load_candidate, save_adapter
from safeclip.training.loop import (
    BAD_BATCH,
    batch_rows,
    finetune,
    harm_plus_utility_penalty,
    load_checkpoint,
    retrieval_metrics,
)
from safeclip.training.step import learning_rate
from tests.training import train_tiny

RECIPE = train_tiny.RECIPE


def outputs(encoder) -> torch.Tensor:
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return torch.cat(
            [encoder.model.encode_text(encoder.tokenize(["a dog"])), encoder.model.encode_image(pixels)]
        )


def test_the_base_encoder_is_bit_identical_after_training(encoder, splits, tmp_path):
    before, state = outputs(encoder), {k: v.clone() for k, v in encoder.model.state_dict().items()}
    outcome = finetune(encoder, *splits, RECIPE, seed=0, folder=tmp_path / "run")
    assert torch.equal(outputs(encoder), before)
    after = encoder.model.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], value) for name, value in state.items())
    assert not torch.equal(outputs(encoder.with_model(outcome.model, "")), before)


def test_that_check_notices_adapters_put_into_the_base_itself(encoder, splits, tmp_path, monkeypatch):
    before = outputs(encoder)
    monkeypatch.setattr("safeclip.training.step.copy.deepcopy", lambda model: model)
    finetune(encoder, *splits, RECIPE, seed=0, folder=tmp_path / "run")
    assert not torch.equal(outputs(encoder), before)


@pytest.mark.parametrize("objective", ["opposed", "relative", "safe_clip"])
def test_training_lowers_the_loss_and_logs_every_term(encoder, splits, tmp_path, objective):
    recipe = RECIPE.model_copy(update={"steps": 60, "objective": objective})
    outcome = finetune(encoder, *splits, recipe, seed=0, folder=tmp_path / "run")
    first, last = outcome.history[:6], outcome.history[-6:]
    assert sum(row["total_loss"] for row in last) < 0.9 * sum(row["total_loss"] for row in first)
    assert [row["step"] for row in outcome.history] == list(range(1, 61))
    assert {"redirect_text_loss", "val_harmful_t2i", "val_safe_r1_i2t"} <= set(outcome.history[-1])


def test_two_runs_agree_and_another_seed_does_not(encoder, splits, tmp_path):
    runs = [
        finetune(encoder, *splits, RECIPE, seed=seed, folder=tmp_path / str(number)).history
        for number, seed in enumerate((5, 5, 6))
    ]
    assert runs[0] == runs[1] != runs[2]


def test_a_run_killed_mid_way_ends_with_the_same_bytes(encoder, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_tiny.main(tmp_path, whole, pause=0.0)
    child = subprocess.Popen([sys.executable, train_tiny.__file__, tmp_path, killed, "0.5"])
    checkpoint = killed / "work" / "checkpoint.pt"
    _wait_for(checkpoint, child)
    child.send_signal(signal.SIGKILL)
    assert child.wait(timeout=60) == -signal.SIGKILL
    assert not (killed / "adapter.safetensors").exists()
    interrupted = load_checkpoint(checkpoint.parent).step
    train_tiny.main(tmp_path, killed, pause=0.0)
    assert 0 < interrupted < RECIPE.steps
    for name in ("adapter.safetensors", "history.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def _wait_for(path: Path, child: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert child.poll() is None, "the run ended before it wrote a checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_loss_that_is_not_a_number_stops_and_names_the_rows(encoder, splits, tmp_path):
    train, val = splits
    pixels = train.pixels.copy()
    pixels[1, 3] = float("nan")
    broken = dataclasses.replace(train, pixels=pixels)
    recipe = RECIPE.model_copy(update={"batch_size": 24})
    with pytest.raises(TrainingError, match=r"step 1: .*nan.* comes out of train-0003; mend"):
        finetune(encoder, broken, val, recipe, seed=0, folder=tmp_path / "run")
    saved = json.loads((tmp_path / "run" / BAD_BATCH).read_text())
    assert saved["step"] == 1
    assert sorted(saved["rows"]) == sorted(train.ids)


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda data: b"\0" + data[1:]])
def test_a_damaged_checkpoint_is_thrown_away_with_a_line(encoder, splits, tmp_path, capsys, damage):
    short = RECIPE.model_copy(update={"steps": 6})
    whole = finetune(encoder, *splits, short, seed=0, folder=tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    assert finetune(encoder, *splits, short, seed=0, folder=tmp_path / "run").history == whole.history
    assert capsys.readouterr().out == f"{checkpoint}: damaged; removed, training starts over\n"


def test_every_row_is_seen_once_an_epoch_and_epochs_differ():
    first = torch.cat([batch_rows(24, 8, step, seed=1) for step in range(3)])
    second = torch.cat([batch_rows(24, 8, step, seed=1) for step in range(3, 6)])
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(24))
    assert first.tolist() != second.tolist()
    assert len(batch_rows(5, 8, 0, seed=1)) == 5


def test_the_adapter_of_a_run_loads_as_a_candidate(encoder, splits, tmp_path):
    outcome = finetune(encoder, *splits, RECIPE, seed=0, folder=tmp_path / "run")
    save_adapter(outcome.model, tmp_path / "adapter.safetensors", base_digest=encoder.digest)
    candidate = load_candidate(tmp_path / "base", tmp_path / "adapter.safetensors")
    assert torch.allclose(outputs(candidate), outputs(encoder.with_model(outcome.model, "")), atol=1e-5)


def test_choosing_a_step_prefers_safety_until_utility_is_lost():
    base = {"harmful_t2i": 1.0, "harmful_i2t": 1.0, "safe_r1_t2i": 0.95, "safe_r1_i2t": 0.95}
    good = {"harmful_t2i": 0.4, "harmful_i2t": 0.3, "safe_r1_t2i": 0.94, "safe_r1_i2t": 0.94}
    assert harm_plus_utility_penalty(good, base) < harm_plus_utility_penalty(base, base)
    assert harm_plus_utility_penalty(good, base) < harm_plus_utility_penalty(
        {**good, "harmful_i2t": 0.9}, base
    )
    assert harm_plus_utility_penalty(good, base) < harm_plus_utility_penalty(
        {**good, "harmful_t2i": 0.2, "safe_r1_t2i": 0.80}, base
    )


def test_harm_counts_ties_and_ignores_items_labelled_safe(encoder, splits):
    _, val = splits
    point = torch.ones_like(val.teacher.text_safe)
    everything_equal = dataclasses.replace(
        val.teacher, text_safe=point, text_generated=point, image_safe=point, image_generated=point
    )
    labels = (val.text_unsafe, val.image_unsafe)
    assert retrieval_metrics(everything_equal, *labels)["harmful_t2i"] == 1.0
    nothing_unsafe = torch.zeros_like(val.text_unsafe)
    assert retrieval_metrics(everything_equal, nothing_unsafe, nothing_unsafe)["harmful_t2i"] == 0.0


def test_bf16_reaches_nearly_the_same_losses(encoder, splits, tmp_path):
    histories = [
        finetune(
            encoder,
            *splits,
            RECIPE.model_copy(update={"precision": precision}),
            seed=0,
            folder=tmp_path / precision,
        ).history
        for precision in ("float32", "bfloat16")
    ]
    losses = [[row["total_loss"] for row in history] for history in histories]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_the_learning_rate_warms_up_and_then_falls_to_nothing():
    recipe = RECIPE.model_copy(update={"steps": 100, "warmup_steps": 10, "learning_rate": 1.0})
    rates = [learning_rate(recipe, step) for step in range(100)]
    assert rates[0] < rates[5] < rates[10]
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))
    assert rates[-1] < 1e-3


@pytest.mark.parametrize("tower", ["text", "image"])
def test_a_tower_of_which_nothing_is_kept_stays_the_base(encoder, splits, tmp_path, tower):
    shares = RECIPE.wise_ft_alpha.model_copy(update={"text": 1.0, tower: 0.0})
    recipe = RECIPE.model_copy(update={"wise_ft_alpha": shares})
    outcome = finetune(encoder, *splits, recipe, seed=0, folder=tmp_path / "run")
    factors = adapter_parameters(outcome.model)
    kept = {name: bool(value.any()) for name, value in factors.items() if name.endswith("lora_b")}
    assert {name.startswith("visual.") for name, moved in kept.items() if moved} == {tower == "text"}


def test_a_run_without_progress_ends_early_and_stays_ended(encoder, splits, tmp_path):
    stop = {"checkpoint_metric": "utility", "early_stop_patience": 2}
    recipe = RECIPE.model_copy(update={"steps": 60, "validate_every": 2, **stop, "learning_rate": 1e-9})
    outcome = finetune(encoder, *splits, recipe, seed=0, folder=tmp_path / "run")
    assert len(outcome.history) == outcome.best_step + 4 == 6  # the first is never bettered
    again = finetune(encoder, *splits, recipe, seed=0, folder=tmp_path / "run")
    assert again.history == outcome.history


def test_the_last_step_is_kept_beside_the_best(encoder, splits, tmp_path):
    outcome = finetune(encoder, *splits, RECIPE, seed=0, folder=tmp_path / "run")
    saved = load_checkpoint(tmp_path / "run")
    assert outcome.last.keys() == saved.factors.keys()
    last_a = {name: value for name, value in outcome.last.items() if name.endswith("lora_a")}
    assert all(torch.equal(value, saved.factors[name]) for name, value in last_a.items())


@pytest.mark.servers  # compiles for a minute
def test_compiled_towers_train_as_the_plain_ones_do(encoder, splits, tmp_path):
    runs = [
        finetune(
            encoder,
            *splits,
            RECIPE.model_copy(update={"compile": compiled, "steps": 5}),
            seed=0,
            folder=tmp_path / str(compiled),
        )
        for compiled in (False, True)
    ]
    losses = [[row["total_loss"] for row in run.history] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)  # in bf16
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2  # one a tower: it was compiled
    assert not torch._dynamo.utils.counters["graph_break"]


def test_compiling_without_a_compiler_is_refused_in_a_line(encoder, splits, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    recipe = RECIPE.model_copy(update={"compile": True})
    with pytest.raises(SettingsError, match=r"^`finetune.compile`: no-such-compiler is not on .* to false$"):
        finetune(encoder, *splits, recipe, seed=0, folder=tmp_path / "run")
