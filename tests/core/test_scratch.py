"""Finished pieces are found again by the same run, never by another, never damaged."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from safeclip.core.checkpoints import Scratch, open_scratch
from safeclip.settings import Settings
from tests.support.params import make_settings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs/a.txt").write_text("a")
    return tmp_path


def killed(settings: Settings) -> Path:
    """The scratch of a run that finished one piece and was then killed."""
    with suppress(KeyboardInterrupt), open_scratch("stage", settings, [Path("inputs")]) as scratch:
        (scratch.folder / "piece.txt").write_text("work")
        scratch.keep("piece", [scratch.folder / "piece.txt"])
        raise KeyboardInterrupt
    return scratch.folder


def test_the_same_run_finds_what_was_finished_and_nothing_is_left_at_its_end(folder: Path) -> None:
    kept = killed(make_settings())
    with open_scratch("stage", make_settings(), [Path("inputs")]) as scratch:
        assert scratch.folder == kept
        assert scratch.has("piece")
        assert not scratch.has("another")
    assert not any((folder / "work/stage").iterdir())


def test_workers_do_not_matter() -> None:
    kept = killed(make_settings(compute={"workers": 1}))
    with open_scratch("stage", make_settings(compute={"workers": 7}), [Path("inputs")]) as scratch:
        assert scratch.folder == kept


@pytest.mark.parametrize("change", ["settings", "bytes", "names", "gone"])
def test_a_run_of_anything_else_finds_nothing_and_removes_the_stale_state(
    change: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = killed(make_settings())
    settings = make_settings(seed=1) if change == "settings" else make_settings()
    if change == "bytes":
        (folder / "inputs/a.txt").write_text("b")
    elif change == "names":
        (folder / "inputs/a.txt").rename(folder / "inputs/b.txt")
    elif change == "gone":
        (folder / "inputs/a.txt").unlink()
    with open_scratch("stage", settings, [Path("inputs")]) as scratch:
        assert not scratch.has("piece")
        assert not kept.exists()
    assert capsys.readouterr().out == f"stage: {kept} is of other inputs or settings; removed\n"


def test_a_file_that_lies_beside_is_removed_too(capsys: pytest.CaptureFixture[str]) -> None:
    kept = killed(make_settings())
    (kept.parent / "plan").write_text("of an older version")
    with open_scratch("stage", make_settings(), [Path("inputs")]) as scratch:
        assert scratch.has("piece")
    assert not (kept.parent / "plan").exists()
    assert "plan is of other inputs or settings; removed" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["cut", "edited", "gone", "record"])
def test_a_damaged_piece_is_thrown_away_with_a_line(damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = killed(make_settings()) / "piece.txt"
    if damage == "gone":
        file.unlink()
    elif damage == "record":
        (file.parent / "piece.whole").write_text("{")
    else:
        file.write_text({"cut": "wo", "edited": "play"}[damage])
    with open_scratch("stage", make_settings(), [Path("inputs")]) as scratch:
        assert not scratch.has("piece")
        assert not scratch.has("piece")
    assert capsys.readouterr().out.count("is damaged; it is made anew\n") == 1


def test_a_piece_without_its_record_does_not_count(folder: Path) -> None:
    (folder / "half.txt").write_text("half")
    assert not Scratch("stage", folder).has("half")
