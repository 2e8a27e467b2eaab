"""Rewriting gives the same answers whatever the workers, the order and the kills."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from safeclip.core.errors import ModelError
from safeclip.core.guard import load_guard
from safeclip.synthesis.answers import AnswerCheck, RewriteOutcome
from safeclip.synthesis.engines import KeyedSampler
from safeclip.synthesis.microbatches import RewriteJob, checkpoint_folder, micro_batches, rewrite_all
from safeclip.synthesis.rewrite import count_rows
from safeclip.synthesis.row_noise import gumbel, row_generator, row_key
from tests.synthesis.tiny import MINOR, SEXUAL, Dies, Says, accept, make_model, make_rewriter, requests


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return make_model(tmp_path_factory.mktemp("tiny"))


def job_in(folder: Path, model: tuple[str, Path], seed: int = 1) -> RewriteJob:
    return RewriteJob(partial(make_rewriter, *model, seed), accept, 1, folder)


def run(job: RewriteJob, rows: int = 18, workers: int = 1) -> list[RewriteOutcome]:
    batches = micro_batches(requests(rows), 4)
    return [outcome for done in rewrite_all(job, batches, workers) for outcome in done]


def test_two_workers_answer_like_one(model: tuple[str, Path], tmp_path: Path) -> None:
    one, two = run(job_in(tmp_path / "1", model)), run(job_in(tmp_path / "2", model), workers=2)
    assert one == two
    assert len({outcome.text for outcome in one}) > 10  # real answers, not one constant
    assert [outcome.id for outcome in one] == [f"row-{n:03d}" for n in range(18)]


def test_another_seed_gives_other_answers(model: tuple[str, Path], tmp_path: Path) -> None:
    assert run(job_in(tmp_path / "1", model), 4) != run(job_in(tmp_path / "2", model, seed=2), 4)


_KILLED = """
import sys, time
from functools import partial
from pathlib import Path
from tests.synthesis.tiny import accept, make_rewriter, requests
from safeclip.synthesis.microbatches import RewriteJob, micro_batches, rewrite_all

def slow(request, answer):
    time.sleep(0.2)
    return accept(request, answer)

job = RewriteJob(partial(make_rewriter, sys.argv[2], Path(sys.argv[3]), 1), slow, 1, Path(sys.argv[1]))
list(rewrite_all(job, micro_batches(requests(18), 4), 1))
"""


def test_a_killed_run_continues_with_the_same_answers(model: tuple[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    child = subprocess.Popen([sys.executable, "-c", _KILLED, str(folder), model[0], str(model[1])])
    deadline = time.monotonic() + 120
    while len(list(folder.glob("[0-9]*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("[0-9]*.json")}
    assert 2 <= len(kept) < 5
    assert run(job_in(folder, model)) == run(job_in(tmp_path / "whole", model))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # finished ones were not done again


def test_a_damaged_checkpoint_is_made_anew(
    model: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    job = job_in(tmp_path, model)
    whole = run(job, 4)
    (tmp_path / "00000.json").write_text("[]")
    assert run(job, 4) == whole
    assert "00000.json is damaged; it is made anew" in capsys.readouterr().out


def test_checkpoints_are_kept_apart_by_model_and_requests(tmp_path: Path) -> None:
    rows = requests(3)
    folders = {
        checkpoint_folder(tmp_path, "a", rows),
        checkpoint_folder(tmp_path, "b", rows),
        checkpoint_folder(tmp_path, "a", rows[:2]),
    }
    assert len(folders) == 3
    assert checkpoint_folder(tmp_path, "a", requests(3)) in folders


def test_micro_batches_follow_ids_not_arrival() -> None:
    rows = requests(10)
    assert micro_batches(rows[::-1], 4) == micro_batches(rows, 4)
    assert [len(batch) for batch in micro_batches(rows, 4)] == [4, 4, 2]


def test_a_refused_answer_is_never_written(tmp_path: Path) -> None:
    guard = load_guard().with_placeholders(minors=[MINOR], sexual=[SEXUAL])
    said = partial(Says, f"a {MINOR} holds a {SEXUAL} by the river")
    outcomes = run(RewriteJob(said, AnswerCheck(guard), 1, tmp_path), 6)
    assert all(outcome.destroyed and outcome.text is None for outcome in outcomes)
    written = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "destroyed" in written
    assert MINOR not in written
    assert SEXUAL not in written
    counts = count_rows(6, 0, 0, sum(outcome.destroyed for outcome in outcomes), max_dropped_share=1.0)
    assert counts == {"in": 6, "out": 0, "quarantined": 0, "destroyed": 6}


def test_a_dead_worker_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"a worker died.*compute\.workers.*run again") as error:
        run(RewriteJob(Dies, accept, 1, tmp_path), 8, workers=2)
    assert "\n" not in str(error.value)


def test_noise_belongs_to_the_row_not_to_its_place_in_the_batch() -> None:
    keys, logits = [row_key(1, f"row-{n}", "rewrite") for n in range(6)], torch.randn(6, 1000)
    tokens = torch.zeros(6, 7, dtype=torch.long)
    drawn = KeyedSampler(keys, 5, 1.0, 0.95)(tokens, logits).argmax(-1)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    shuffled = KeyedSampler([keys[at] for at in order], 5, 1.0, 0.95)(tokens, logits[order]).argmax(-1)
    assert torch.equal(shuffled, drawn[order])
    alone = KeyedSampler([keys[3]], 9, 1.0, 0.95)(torch.zeros(1, 11, dtype=torch.long), logits[3:4])
    assert alone.argmax(-1).item() == drawn[3].item()  # nor to how far the batch was padded


def test_noise_differs_between_rows_positions_and_tokens() -> None:
    keys, tokens = np.array([1, 2], dtype=np.uint64), np.arange(50)[None].repeat(2, 0)
    first, second = gumbel(keys, 0, tokens), gumbel(keys, 1, tokens)
    values = np.concatenate([first.ravel(), second.ravel()])
    assert len(np.unique(values)) == values.size
    assert np.array_equal(gumbel(keys, 0, tokens), first)


def test_sampling_follows_the_softmax_and_cuts_the_tail() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.04, 0.01])
    rows = 20_000
    keys = [row_key(1, str(n), "rewrite") for n in range(rows)]
    logits = probabilities.log().expand(rows, 5) * 2.0  # a temperature of 2 undoes the factor
    scores = KeyedSampler(keys, 0, 2.0, 0.95)(torch.zeros(rows, 1, dtype=torch.long), logits)
    assert torch.isfinite(scores).sum(-1).eq(1).all()  # one token is left to choose
    shares = scores.argmax(-1).bincount(minlength=5) / rows
    assert shares[3:].sum() == 0  # 0.95 is reached by the first three
    assert torch.allclose(shares[:3], probabilities[:3] / 0.95, atol=0.015)


def test_a_rows_generator_is_its_own() -> None:
    draws = [row_generator(seed, row, purpose).random() for seed, row, purpose in
             [(1, "a", "x"), (2, "a", "x"), (1, "b", "x"), (1, "a", "y")]]  # fmt: skip
    assert len(set(draws)) == 4
    assert row_generator(1, "a", "x").random() == draws[0]
    assert 0 <= row_key(1, "a", "x") < 2**63
