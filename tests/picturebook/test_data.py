"""scripts/make_picturebook_data.py: deterministic files, no scene in two splits."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from picturebook.lexicon import BY_NAME, find_entries

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_picturebook_data.py"
FILES = ("captions.jsonl", "zeroshot.parquet", "zeroshot_prompts.json")


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data")
    assert _run("--out", str(out)).returncode == 0
    return out


@pytest.fixture(scope="module")
def rows(made: Path) -> list[dict]:
    return [json.loads(line) for line in (made / "captions.jsonl").read_text().splitlines()]


def test_splits_have_their_sizes_and_ids_captions_and_scenes_are_unique(rows: list[dict]) -> None:
    assert Counter(row["split"] for row in rows) == {"train": 2400, "val": 400, "test": 2400}
    assert [row["id"] for row in rows] == sorted({row["id"] for row in rows})
    assert len({row["caption"] for row in rows}) == len(rows)
    assert all(set(row) == {"id", "split", "caption", "source", "image"} for row in rows)


def test_no_set_of_glyphs_stands_in_two_splits_and_all_are_safe(rows: list[dict]) -> None:
    scenes = [frozenset(entry.name for entry in find_entries(row["caption"])) for row in rows]
    assert len(set(scenes)) == len(rows)
    assert not any(BY_NAME[name].unsafe for scene in scenes for name in scene)


def test_the_zero_shot_set_has_safe_classes_of_equal_size_and_prompts_with_a_slot(made: Path) -> None:
    table = pq.read_table(made / "zeroshot.parquet")
    counts = Counter(table.column("label").to_pylist())
    assert len(counts) == 60
    assert set(counts.values()) == {10}
    assert not any(BY_NAME[name].unsafe for name in counts)
    assert len(set(table.column("image").to_pylist())) == 600
    templates = json.loads((made / "zeroshot_prompts.json").read_text())["templates"]
    for template in templates:
        assert [entry.name for entry in find_entries(template.format("elephant"))] == ["elephant"]


def test_the_same_seed_writes_the_same_bytes_and_another_seed_other_captions(tmp_path: Path) -> None:
    small = ("--train", "20", "--val", "5", "--test", "20", "--classes", "3", "--per-class", "2")
    for folder, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert _run("--out", str(tmp_path / folder), "--seed", seed, *small).returncode == 0
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / FILES[0]).read_bytes() != (tmp_path / "c" / FILES[0]).read_bytes()


def test_help_shows_an_example_and_bad_numbers_fail_in_one_line(tmp_path: Path) -> None:
    assert "example: python scripts/make_picturebook_data.py" in _run("--help").stdout
    failed = _run("--out", str(tmp_path), "--train", "5", "--val", "1", "--test", "1", "--classes", "9999")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: 9999 zero-shot classes asked for")
    assert len(failed.stderr.splitlines()) == 1
