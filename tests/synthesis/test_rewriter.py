"""Tuning teaches the model, repeats itself to the byte, and leaves nothing of the machine in its outputs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from safeclip.core.checkpoints import Scratch
from safeclip.core.errors import ModelError
from safeclip.synthesis.engines import RewriteRequest, TransformersRewriter, prompt_messages
from safeclip.synthesis.language_model import (
    folder_digest,
    load_model,
    load_rewriter,
    load_tokenizer,
    model_folder,
)
from safeclip.synthesis.pairs import CuratedPair
from safeclip.synthesis.rewriter import save_rewriter, tune
from tests.support.params import make_settings
from tests.synthesis.tiny import SETTINGS, make_model

PEOPLE, PLACES = ("a man", "a woman", "a chef", "a farmer"), ("near the river", "in the park", "at the bank")
PAIRS = [
    CuratedPair(
        id=f"pair-{person}-{place}",
        caption_safe=f"{person} carries a guitar {place}",
        caption_unsafe=f"{person} carries a gun {place}",
        concept="a gun",
        categories=("violence",),
    )
    for person in PEOPLE
    for place in PLACES
]
QUICK = make_settings(
    tune_rewriter={"lora_rank": 4, "epochs": 1, "batch_size": 6, "dtype": "float32"}
).tune_rewriter


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return make_model(tmp_path_factory.mktemp("tiny"))


def test_the_real_model_learns_and_then_rewrites(tmp_path: Path) -> None:
    folder = model_folder("smollm2-135m")
    recipe = {"epochs": 3, "batch_size": 6, "learning_rate": 2e-3, "warmup_steps": 0, "dtype": "float32"}
    settings = make_settings(tune_rewriter=recipe).tune_rewriter
    tuned = tune(folder, PAIRS, settings, seed=1)
    assert tuned.losses[-1] < 0.6 * tuned.losses[0]
    save_rewriter(tuned, "smollm2-135m", tmp_path)
    rewriter = TransformersRewriter(folder, tmp_path / "adapter", SETTINGS, seed=1)
    unseen = [RewriteRequest("a", "a doctor carries a guitar in the city", "a gun")]
    (answer,) = rewriter.rewrite(unseen)
    assert "gun" in answer.text
    assert answer.text.startswith("a doctor")


def test_tuning_twice_gives_the_same_files(model: tuple[str, Path], tmp_path: Path) -> None:
    for run in ("one", "two"):
        save_rewriter(tune(model[0], PAIRS, QUICK, seed=1), "tiny", tmp_path / run)
    assert folder_digest(tmp_path / "one") == folder_digest(tmp_path / "two")
    save_rewriter(tune(model[0], PAIRS, QUICK, seed=2), "tiny", tmp_path / "three")
    assert folder_digest(tmp_path / "one") != folder_digest(tmp_path / "three")


def test_a_run_killed_mid_way_goes_on_and_gives_the_same_files(
    model: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("safeclip.synthesis.rewriter.SAVE_EVERY", 2)
    long = QUICK.model_copy(update={"epochs": 3, "dtype": "bfloat16"})
    save_rewriter(tune(model[0], PAIRS, long, seed=1), "tiny", tmp_path / "whole")

    def killed(step: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    scratch = Scratch("tune_rewriter", tmp_path / "scratch")
    scratch.folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        tune(model[0], PAIRS, long, seed=1, report=killed, scratch=scratch)
    (scratch.folder / "checkpoint-6").mkdir()  # begun and not finished
    steps: list[int] = []
    again = tune(model[0], PAIRS, long, seed=1, report=lambda step, loss: steps.append(step), scratch=scratch)
    save_rewriter(again, "tiny", tmp_path / "resumed")
    assert steps == [5, 6]
    assert "tune_rewriter: goes on from checkpoint-4\n" in capsys.readouterr().out
    assert folder_digest(tmp_path / "resumed") == folder_digest(tmp_path / "whole")


def test_the_output_holds_the_adapter_and_the_losses_and_nothing_of_the_machine(
    model: tuple[str, Path], tmp_path: Path
) -> None:
    tuned = tune(model[0], PAIRS, QUICK, seed=1)
    save_rewriter(tuned, "tiny", tmp_path)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["adapter/adapter_config.json", "adapter/adapter_model.safetensors", "loss.csv"]
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert str(model[0]) not in json.dumps(config)
    rows = list(csv.reader((tmp_path / "loss.csv").open()))
    assert rows[0] == ["step", "loss"]
    assert [int(step) for step, _ in rows[1:]] == list(range(1, len(tuned.losses) + 1))


def test_the_loss_is_that_of_the_answers_alone(model: tuple[str, Path]) -> None:
    """The first step's loss equals the plain model's cross-entropy over the answers' tokens."""
    folder, pairs = model[0], PAIRS[:6]
    tuned = tune(folder, pairs, QUICK, seed=1)
    plain, tokenizer = load_model(folder, torch.float32), load_tokenizer(folder)
    total, count = 0.0, 0
    for pair in pairs:
        prompt = prompt_messages(pair.caption_safe, pair.concept)
        chat = [*prompt, {"role": "assistant", "content": pair.caption_unsafe}]
        asked = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        tokens = tokenizer(tokenizer.apply_chat_template(chat, tokenize=False), return_tensors="pt").input_ids
        start = len(tokenizer(asked).input_ids)
        with torch.no_grad():
            logits = plain(tokens).logits[0, start - 1 : -1]
        total += torch.nn.functional.cross_entropy(logits, tokens[0, start:], reduction="sum").item()
        count += tokens.shape[1] - start
    assert tuned.losses[0] == pytest.approx(total / count, rel=1e-3)


def test_the_merged_model_says_what_base_and_adapter_say(model: tuple[str, Path]) -> None:
    tokens = torch.arange(5, 25)[None]
    merged = load_rewriter(*model, torch.float32)
    adapted = PeftModel.from_pretrained(load_model(model[0], torch.float32), str(model[1]))
    plain = load_model(model[0], torch.float32)
    with torch.no_grad():
        assert torch.allclose(merged(tokens).logits, adapted(tokens).logits, atol=1e-4)
        assert not torch.allclose(merged(tokens).logits, plain(tokens).logits, atol=1e-4)


def test_the_base_weights_are_converted_once(tmp_path: Path) -> None:
    folder = model_folder("smollm2-135m")
    assert model_folder("smollm2-135m") == folder
    assert Path(folder, "model.safetensors").stat().st_size < 300e6
    assert model_folder(str(tmp_path)) == str(tmp_path)  # any other name is left to transformers


@pytest.mark.parametrize("what", ["model", "adapter"])
def test_missing_weights_are_one_line(model: tuple[str, Path], tmp_path: Path, what: str) -> None:
    folder, adapter = (str(tmp_path / "none"), model[1]) if what == "model" else (model[0], tmp_path / "none")
    with pytest.raises(ModelError) as error:
        load_rewriter(folder, adapter, torch.float32)
    assert "none" in str(error.value)
    assert "\n" not in str(error.value)
