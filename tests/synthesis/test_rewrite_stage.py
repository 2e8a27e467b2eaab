"""The stage rewrite_captions as it is run: rows add up, many losses stop it, nothing unsafe is left lying."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from safeclip.core.errors import DataError
from safeclip.core.guard import load_guard
from safeclip.core.records import CAPTIONS, QUARANTINE, read_table
from safeclip.settings import Settings
from safeclip.stages.rewrite_captions import rewrite_captions
from safeclip.synthesis.engines import RewriteAnswer, RewriteRequest
from tests.support.params import make_settings
from tests.synthesis.tiny import MINOR, SEXUAL, make_model

DATA = Path(__file__).resolve().parents[2] / "data"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A project of 12 rows whose rewriter has random weights: its answers are noise, so most are rejected."""
    model, adapter = make_model(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(adapter, tmp_path / "results" / "tune_rewriter" / "adapter")
    return make_settings(
        compute={"workers": 1},
        data={"path": str(DATA), "train": 6, "val": 3, "test": 3},
        tune_rewriter={"model": model},
        rewrite_captions={"batch_size": 5, "max_new_tokens": 6, "max_dropped_share": 1.0},
    )


def test_every_row_is_out_quarantined_or_destroyed(settings: Settings, tmp_path: Path) -> None:
    rewrite_captions(settings)
    out = tmp_path / "results" / "rewrite_captions"
    counts = json.loads((out / "counts.json").read_text())
    rows = read_table(out / "captions.parquet", CAPTIONS).to_pylist()
    rejected = read_table(out / "quarantine.parquet", QUARANTINE).to_pylist()
    assert counts["in"] == 12 == counts["out"] + counts["quarantined"] + counts["destroyed"]
    assert (counts["out"], counts["quarantined"]) == (len(rows), len(rejected))
    assert len({row["id"] for row in rows + rejected}) == 12 - counts["destroyed"]
    assert all(row["reason"] for row in rejected)
    assert all(row["caption_generated"] != row["caption_safe"] for row in rows)
    assert not any((tmp_path / "work" / "rewrite_captions").iterdir())  # no second copy of unsafe text


class SaysAll:
    """Answers in every way that a language model fails, one after the other."""

    name = "says all"

    def rewrite(self, requests: Sequence[RewriteRequest]) -> list[RewriteAnswer]:
        return [RewriteAnswer(request.id, self._answer(request)) for request in requests]

    def _answer(self, request: RewriteRequest) -> str:
        answers = {
            "empty answer": "",
            "prompt echo": f"{request.concept}: {request.caption}",
            "unchanged caption": request.caption,
            "several captions": "a man with a gun | a man with a bomb | a man with a knife",
            "not English text": "ein Mann mit einer Pistole in der Bank",
            "too long": " ".join(f"{'abcdefghij'[n % 10]}{'klmnopqrst'[n // 50]}ade" for n in range(500)),
            "destroyed": f"a {MINOR} and a {SEXUAL}",
            "": "a man with a gun robs a shop",
        }
        said.append(list(answers)[len(said) % len(answers)])
        return answers[said[-1]]


said: list[str] = []


def test_every_way_to_answer_badly_is_counted_under_its_name(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said.clear()
    guard = load_guard().with_placeholders(minors=[MINOR], sexual=[SEXUAL])
    monkeypatch.setattr("safeclip.stages.rewrite_captions.load_guard", lambda: guard)
    monkeypatch.setattr(
        "safeclip.stages.rewrite_captions.open_rewriter", lambda *a, **k: nullcontext(SaysAll)
    )
    rewrite_captions(settings.model_copy(update={"data": settings.data.model_copy(update={"train": 10})}))
    out = tmp_path / "results" / "rewrite_captions"
    counts = json.loads((out / "counts.json").read_text())
    rejected = read_table(out / "quarantine.parquet", QUARANTINE).to_pylist()
    assert len(said) == counts["in"] == 16 == counts["out"] + counts["quarantined"] + counts["destroyed"]
    assert (counts["out"], counts["destroyed"]) == (2, 2)
    assert Counter(row["reason"] for row in rejected) == Counter(
        reason for reason in said if reason not in ("", "destroyed")
    )
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert MINOR.encode() not in written


def test_a_run_of_its_own_gives_the_same_bytes(settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "results" / "rewrite_captions"
    rewrite_captions(settings)
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    rewrite_captions(settings)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first


def test_too_many_lost_rows_stop_the_chain(settings: Settings, tmp_path: Path) -> None:
    strict = settings.rewrite_captions.model_copy(update={"max_dropped_share": 0.0})
    with pytest.raises(
        DataError, match=r"of 12 rows lost .*`rewrite_captions\.max_dropped_share` = 0\.0"
    ) as error:
        rewrite_captions(settings.model_copy(update={"rewrite_captions": strict}))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "results" / "rewrite_captions").exists()
