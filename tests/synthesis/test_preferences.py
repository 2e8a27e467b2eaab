"""Preference tuning: what is ranked over what, that it teaches, and that it leaves the default alone."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from safeclip.core.checkpoints import Scratch
from safeclip.core.errors import TrainingError
from safeclip.core.guard import load_guard
from safeclip.core.taxonomy import Phrase
from safeclip.settings import Drawing, load_settings
from safeclip.settings import Preference as PreferenceSettings
from safeclip.stages.tune_rewriter import tune_rewriter
from safeclip.synthesis import preferences as preference_tuning
from safeclip.synthesis.answers import DESTROYED, RewriteOutcome
from safeclip.synthesis.captions import SafeCaption
from safeclip.synthesis.engines import RewriteRequest, prompt_messages
from safeclip.synthesis.language_model import (
    folder_digest,
    load_model,
    load_rewriter,
    load_tokenizer,
    model_folder,
)
from safeclip.synthesis.preferences import (
    CategoryReward,
    HiddenStates,
    RankedPair,
    draw_requests,
    draw_rewrites,
    rank,
    tune_dpo,
)
from safeclip.synthesis.rewriter import TunedRewriter, save_rewriter, tune
from tests.support.params import make_settings
from tests.synthesis.test_rewriter import PAIRS, QUICK
from tests.synthesis.tiny import MINOR, SEXUAL, make_model

ROOT = Path(__file__).resolve().parents[2]
GUARD = load_guard().with_placeholders(minors=[MINOR], sexual=[SEXUAL])
ASKED = RewriteRequest("a", "a man carries a guitar by the river", "a gun", ("violence",))
SHORT = PreferenceSettings(
    captions=8, draws=2, temperature=1.0, margin=0.0, beta=0.1, sft_weight=0.2, epochs=2, batch_size=2,
    learning_rate=1e-3,
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def sft(model: tuple[str, Path]) -> TunedRewriter:
    """What SFT left; DPO changes it in place, so take copies."""
    return tune(model[0], PAIRS, QUICK, seed=1)


def says_gun(texts: list[str], categories: object) -> np.ndarray:
    """A reward for tests: whether there is a gun."""
    return np.array([float("gun" in text) for text in texts])


def ranked(*said: str, margin: float = 0.1, reasons: tuple[str, ...] = ()) -> tuple[RankedPair, ...]:
    outcomes = [
        RewriteOutcome(f"a#{n}", None, reasons[n])
        if n < len(reasons) and reasons[n]
        else RewriteOutcome(f"a#{n}", text)
        for n, text in enumerate(said)
    ]
    return rank([ASKED] * len(said), outcomes, said, says_gun, margin).pairs  # type: ignore[arg-type]


def test_the_better_rewrite_is_unsafe_and_keeps_the_caption() -> None:
    (pair,) = ranked(
        "a man carries a lamp by the river", "a gun", "a man carries a gun by the river", "a gun by the river"
    )
    assert pair.chosen == "a man carries a gun by the river"
    assert pair.rejected == "a man carries a lamp by the river"
    assert pair.reward_chosen == pytest.approx(7 / 8)
    assert pair.reward_rejected == 0.0


def test_a_rejected_answer_can_only_lose_and_a_destroyed_one_is_not_looked_at() -> None:
    good, echo = "a man carries a gun by the river", "a gun: a man carries a guitar by the river"
    (pair,) = ranked(echo, good, reasons=("prompt echo",))
    assert (pair.chosen, pair.rejected) == (good, echo)
    assert ranked(echo, echo, reasons=("prompt echo", "prompt echo")) == ()
    assert ranked("a secret", good, reasons=(DESTROYED,)) == ()


def test_rewrites_that_are_about_as_good_make_no_pair() -> None:
    assert ranked("a man carries a gun by the river", "a man carries a gun by a river", margin=0.3) == ()


def test_the_reward_reads_the_category_that_was_asked() -> None:
    folder = model_folder("smollm2-135m")
    embed = HiddenStates(load_model(folder, torch.float32), load_tokenizer(folder))
    named = {
        "violence": ("gun", "knife", "bomb", "rifle"),
        "illegal": ("burglar", "thief", "smuggler", "robber"),
    }
    phrases = [
        Phrase(text=f"a {word}", concept="test", categories=(category,))
        for category, words in named.items()
        for word in words
    ]
    safe = [pair.caption_safe for pair in PAIRS]
    reward = CategoryReward(embed, PAIRS, phrases, safe)
    texts = ["a pilot holds a knife in the rain", "a pilot holds a letter in the rain"]
    violent, harmless = reward(texts, [("violence",)] * 2)
    other, _ = reward(texts, [("illegal",)] * 2)
    assert violent > max(harmless, other)
    assert len(reward([], [])) == 0
    assert np.isfinite(embed(["", "a man runs"])).all()  # a rejected rewrite has no text


def test_candidates_are_asked_for_with_concepts_that_the_guard_allows() -> None:
    captions = [
        SafeCaption(id=f"c{n}", split="train", caption=f"a {MINOR} by river {n}", source="test")
        for n in range(5)
    ]
    phrases = [
        Phrase(text=f"thing {n}", concept="test", categories=("sexual",) if n % 2 else ("violence",))
        for n in range(6)
    ]
    requests = draw_requests(captions, phrases, GUARD, draws=3, seed=1)
    assert len({request.id for request in requests}) == len(requests) == 15
    assert {request.categories for request in requests} == {("violence",)}
    assert all(len({r.concept for r in requests if r.caption == c.caption}) == 1 for c in captions)
    assert draw_requests(captions, phrases[1:2], GUARD, draws=3, seed=1) == []


def preferences() -> list[RankedPair]:
    return [
        RankedPair(
            RewriteRequest(pair.id, pair.caption_safe, pair.concept, pair.categories),
            pair.caption_unsafe, pair.caption_safe, 0.8, 0.0,
        )
        for pair in PAIRS[:8]
    ]  # fmt: skip


def gap(folder: str, adapter: Path) -> float:
    """Mean log-likelihood of the chosen answers minus that of the rejected ones."""
    model, tokenizer = load_rewriter(folder, adapter, torch.float32), load_tokenizer(folder)

    def likelihood(pair: RankedPair, text: str) -> float:
        prompt = prompt_messages(pair.request.caption, pair.request.concept)
        asked = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        start, tokens = (
            len(tokenizer(asked).input_ids),
            tokenizer(asked + text, return_tensors="pt").input_ids,
        )
        with torch.no_grad():
            scores = model(tokens).logits[0, start - 1 : -1].log_softmax(-1)
        return float(scores.gather(1, tokens[0, start:, None]).sum())

    return float(np.mean([likelihood(p, p.chosen) - likelihood(p, p.rejected) for p in preferences()]))


def test_what_is_preferred_becomes_likelier_and_twice_gives_the_same_files(
    model: tuple[str, Path], sft: TunedRewriter, tmp_path: Path
) -> None:
    save_rewriter(sft, "tiny", tmp_path / "sft")
    for run in ("one", "two"):
        start = copy.deepcopy(sft)
        save_rewriter(tune_dpo(start, model[0], preferences(), SHORT, seed=1), "tiny", tmp_path / run)
    assert folder_digest(tmp_path / "one") == folder_digest(tmp_path / "two")
    files = {str(path.relative_to(tmp_path / "one")) for path in (tmp_path / "one").rglob("*.*")}
    assert files == {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "loss.csv"}
    assert gap(model[0], tmp_path / "one" / "adapter") > gap(model[0], tmp_path / "sft" / "adapter") + 0.1


def test_a_killed_tuning_goes_on_where_it_was_and_gives_the_same_files(
    model: tuple[str, Path], sft: TunedRewriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preference_tuning, "SAVE_EVERY", 2)
    (tmp_path / "scratch").mkdir()
    scratch = Scratch("test", tmp_path / "scratch")
    steps: list[int] = []

    def run(stop_at: int | None, name: str) -> None:
        def report(step: int, loss: float) -> None:
            steps.append(step)
            if step == stop_at:
                raise KeyboardInterrupt

        start = copy.deepcopy(sft)
        done = tune_dpo(start, model[0], preferences(), SHORT, seed=1, report=report, scratch=scratch)
        save_rewriter(done, "tiny", tmp_path / name)

    save_rewriter(
        tune_dpo(copy.deepcopy(sft), model[0], preferences(), SHORT, seed=1),
        "tiny",
        tmp_path / "one",
    )
    with pytest.raises(KeyboardInterrupt):
        run(5, "never")
    run(None, "two")
    assert steps == [1, 2, 3, 4, 5, 5, 6, 7, 8]
    assert folder_digest(tmp_path / "one" / "adapter") == folder_digest(tmp_path / "two" / "adapter")


def test_rewrites_that_were_drawn_are_not_drawn_again(
    model: tuple[str, Path], sft: TunedRewriter, tmp_path: Path
) -> None:
    save_rewriter(sft, "tiny", tmp_path)
    settings = Drawing(batch_size=4, max_new_tokens=4, temperature=0.7, top_p=0.95, dtype="float32")
    requests = [RewriteRequest(f"row-{n}", f"a man by river {n}", "a gun") for n in range(10)]

    def drawn(adapter: Path, scratch: Scratch | None) -> object:
        return draw_rewrites(model[0], adapter, requests, settings, GUARD, seed=1, scratch=scratch)

    whole = drawn(tmp_path / "adapter", None)
    (tmp_path / "scratch").mkdir()
    scratch = Scratch("test", tmp_path / "scratch")
    assert drawn(tmp_path / "adapter", scratch) == whole
    assert drawn(tmp_path / "no such adapter", scratch) == whole
    (tmp_path / "scratch" / "draws-00001.json").write_text("[]")
    assert drawn(tmp_path / "adapter", scratch) == whole


def test_too_few_pairs_say_what_to_change(model: tuple[str, Path], sft: TunedRewriter) -> None:
    with pytest.raises(TrainingError, match=r"1 ranked pairs.*`tune_rewriter\.preference\.captions`"):
        tune_dpo(sft, model[0], preferences()[:1], SHORT, seed=1)


def test_the_stage_keeps_what_sft_left_beside_what_dpo_made(
    model: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "data" / "taxonomy.yaml", tmp_path / "data")
    for name, lines in (("captions.jsonl", 400), ("curated_pairs.jsonl", 12)):
        first = (ROOT / "data" / name).read_text().splitlines(keepends=True)[:lines]
        (tmp_path / "data" / name).write_text("".join(first))
    own = QUICK.model_copy(update={"model": model[0], "preference": SHORT})
    tune_rewriter(make_settings(tune_rewriter=own))
    out = tmp_path / "results" / "tune_rewriter"
    sft, final = folder_digest(out / "sft" / "adapter"), folder_digest(out / "adapter")
    report = json.loads((out / "preferences.json").read_text())
    assert sft != final
    assert report["rewrites"] == 16
    assert report["pairs"] <= 8
    tune_rewriter(make_settings(tune_rewriter=own.model_copy(update={"preference": None})))
    assert folder_digest(out / "adapter") == sft  # the default stops where DPO begins
    assert not (out / "sft").exists()


def test_the_default_profile_stops_after_sft() -> None:
    assert load_settings(ROOT / "params.yaml").tune_rewriter.preference is None
