"""The captions file is checked line by line; the rows used are the first by id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safeclip.core.errors import DataError
from safeclip.synthesis.captions import load_captions, select_captions

ROW = {"id": "a", "split": "train", "caption": "a dog by the river", "source": "test", "image": None}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([ROW, ROW], r"captions\.jsonl:2: id 'a' stands twice"),
        ([ROW | {"split": "dev"}], r"captions\.jsonl:1: `split`"),
        ([ROW | {"caption": ""}], r"captions\.jsonl:1: `caption`"),
        ([ROW | {"colour": "red"}], r"captions\.jsonl:1: `colour`"),
        ([{"id": "a"}], r"captions\.jsonl:1: `split`"),
        ([], "holds no captions"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, rows: list[dict[str, Any]], fault: str) -> None:
    with pytest.raises(DataError, match=fault) as error:
        load_captions(write(tmp_path / "captions.jsonl", *rows))
    assert "a dog by the river" not in str(error.value)  # logs name rows, never texts


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pull the data folder"):
        load_captions(tmp_path / "captions.jsonl")


def test_the_first_rows_by_id_of_each_split_are_used(tmp_path: Path) -> None:
    rows = [ROW | {"id": f"{n}", "split": split} for n, split in
            [(5, "train"), (1, "train"), (3, "train"), (4, "test"), (2, "val")]]  # fmt: skip
    captions = load_captions(write(tmp_path / "captions.jsonl", *rows))
    chosen = select_captions(captions, {"train": 2, "val": 1, "test": 9})
    assert [caption.id for caption in chosen] == ["1", "2", "3", "4"]
