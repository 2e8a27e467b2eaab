"""A gallery index is refused by any encoder but its own, and told from a broken one."""

import json
from pathlib import Path

import numpy as np
import pytest

from safeclip.core.errors import DataError, ModelError
from safeclip.serving.index import IndexItem, IndexRow, join_rows, open_index, write_rows


def rows(count: int, first: int) -> list[IndexRow]:
    generator = np.random.default_rng(first)
    return [
        IndexRow(
            IndexItem(f"{number}.png", "image", unsafe=number % 2 == 1),
            generator.random(4, np.float32),
            generator.random(4, np.float32),
            b"x" * number,
        )
        for number in range(first, first + count)
    ]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    write_rows(tmp_path / "part-0", rows(3, 0))
    write_rows(tmp_path / "part-1", rows(2, 3))
    whole = tmp_path / "index"
    whole.mkdir()
    join_rows([tmp_path / "part-0", tmp_path / "part-1"], whole, "encoder", "base")
    return whole


def test_what_was_written_is_read_back(index: Path) -> None:
    found = open_index(index, "encoder", "base")
    expected = [*rows(3, 0), *rows(2, 3)]
    assert [found.item(row) for row in range(5)] == [row.item for row in expected]
    assert [found.thumbnail(row) for row in range(5)] == [row.thumbnail for row in expected]
    assert np.array_equal(found.served, [row.served for row in expected])
    assert np.array_equal(found.base, [row.base for row in expected])
    assert found.described == {"items": 5, "unsafe": 2}


@pytest.mark.parametrize("digests", [("other", "base"), ("encoder", "other")])
def test_an_index_of_another_encoder_is_refused(index: Path, digests: tuple[str, str]) -> None:
    with pytest.raises(ModelError, match="an index of another encoder; build it again"):
        open_index(index, *digests)


@pytest.mark.parametrize(
    "name", ["index.json", "served.npy", "base.npy", "items.jsonl", "thumbnails.bin", "thumbnails.npy"]
)
def test_a_missing_or_cut_file_is_told_in_one_line(index: Path, name: str) -> None:
    content = (index / name).read_bytes()
    for broken in (content[:-1] if name != "items.jsonl" else content[: len(content) // 2], None):
        (index / name).unlink(missing_ok=True)
        if broken is not None:
            (index / name).write_bytes(broken)
            if name == "index.json":
                continue  # the last byte is a line's end
        with pytest.raises(DataError, match="build") as refused:
            open_index(index, "encoder", "base")
        assert "\n" not in str(refused.value)


def test_rows_of_different_numbers_are_refused(index: Path) -> None:
    header = json.loads((index / "index.json").read_text()) | {"items": 6}
    (index / "index.json").write_text(json.dumps(header))
    with pytest.raises(DataError, match="different numbers of rows"):
        open_index(index, "encoder", "base")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": "other"}', b"\xff"])
def test_what_is_no_index_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(DataError, match=r"no index.json|not of the format"):
        open_index(tmp_path, "encoder", "base")
