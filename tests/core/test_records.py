"""Tables are the contract between stages: whole or absent, in order of id, the same bytes each time."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safeclip.core.errors import DataError
from safeclip.core.records import (
    CAPTIONS,
    IMAGES,
    QUADRUPLETS,
    QUARANTINE,
    read_columns,
    read_dataset,
    read_table,
    write_table,
)


def rejected(*ids: str) -> list[dict]:
    return [{"id": row_id, "stage": "a_stage", "reason": "a reason"} for row_id in ids]


def quadruplet(row_id: str, split: str = "train") -> dict:
    values = dict.fromkeys(QUADRUPLETS.names) | {
        "id": row_id,
        "split": split,
        "categories": ["hate", "shocking"],
    }
    return values | {"image_safe": b"\x89PNG\x00\xff", "text_score": 0.25, "seed": 2**62 + 1}


def test_rows_come_back_sorted_and_unchanged(tmp_path):
    path = tmp_path / "new/folder/train-00000.parquet"
    write_table(path, [quadruplet("b"), quadruplet("a")], QUADRUPLETS)
    rows = read_table(path, QUADRUPLETS).to_pylist()
    assert rows == [quadruplet("a"), quadruplet("b")]


def test_the_order_given_does_not_change_the_bytes(tmp_path):
    write_table(tmp_path / "one.parquet", rejected("c", "a", "b"), QUARANTINE)
    table = pa.Table.from_pylist(rejected("b", "c", "a"), schema=QUARANTINE)
    write_table(tmp_path / "two.parquet", table, QUARANTINE)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_no_rows_are_a_table_too(tmp_path):
    write_table(tmp_path / "none.parquet", [], QUARANTINE)
    table = read_table(tmp_path / "none.parquet", QUARANTINE)
    assert (table.num_rows, table.schema.names) == (0, QUARANTINE.names)


def test_rows_that_do_not_fit_leave_the_old_file_alone(tmp_path):
    path = tmp_path / "quarantine.parquet"
    write_table(path, rejected("a"), QUARANTINE)
    for bad in ([{"id": "a", "stage": 7, "reason": "x"}], pa.table({"id": ["a"]})):
        with pytest.raises(DataError, match=r"quarantine\.parquet: rows do not fit the schema"):
            write_table(path, bad, QUARANTINE)
    assert read_table(path, QUARANTINE)["id"].to_pylist() == ["a"]
    assert [file.name for file in tmp_path.iterdir()] == ["quarantine.parquet"]


def test_a_misspelt_column_in_rows_is_refused_not_dropped(tmp_path):
    with pytest.raises(DataError, match="no column `reasons`"):
        write_table(tmp_path / "q.parquet", [{"id": "a", "stage": "s", "reasons": "x"}], QUARANTINE)


def test_extra_columns_of_a_table_are_left_out(tmp_path):
    table = pa.Table.from_pylist([row | {"more": 1} for row in rejected("a")])
    write_table(tmp_path / "q.parquet", table, QUARANTINE)
    assert pq.read_schema(tmp_path / "q.parquet").names == QUARANTINE.names


def test_shards_are_read_as_one_table_in_order_of_id(tmp_path):
    for shard, ids in enumerate((("d", "b"), ("c", "a"))):
        rows = [{"id": i, "image_safe": b"x", "image_generated": b"y", "image_model": "m"} for i in ids]
        write_table(tmp_path / f"images-{shard:05d}.parquet", rows, IMAGES)
    assert read_table(tmp_path.glob("images-*.parquet"), IMAGES)["id"].to_pylist() == ["a", "b", "c", "d"]


def test_a_fault_names_the_file_and_the_way_out(tmp_path):
    missing, broken, other = (tmp_path / name for name in ("missing", "broken", "other"))
    broken.write_bytes(b"not parquet")
    write_table(other, rejected("a"), QUARANTINE)
    with pytest.raises(DataError, match="missing: no such file; run the stage that writes it"):
        read_table(missing, CAPTIONS)
    with pytest.raises(DataError, match="broken: not readable as Parquet"):
        read_table(broken, CAPTIONS)
    with pytest.raises(DataError, match="other: columns missing: split, caption_safe"):
        read_table(other, CAPTIONS)
    with pytest.raises(DataError, match="no Parquet files to read"):
        read_table(tmp_path.glob("*.none"), CAPTIONS)


def test_a_column_of_another_type_is_a_fault_that_names_the_file(tmp_path):
    path = tmp_path / "q.parquet"
    pq.write_table(pa.table({"id": ["a"], "stage": [["list"]], "reason": ["x"]}), path)
    with pytest.raises(DataError, match=r"q\.parquet: does not fit the schema"):
        read_columns(path, QUARANTINE)


def test_a_split_is_read_by_name(tmp_path):
    for split in ("train", "test"):
        write_table(tmp_path / f"{split}-00000.parquet", [quadruplet(f"{split}-1", split)], QUADRUPLETS)
    assert read_dataset(tmp_path, "test")["id"].to_pylist() == ["test-1"]
    with pytest.raises(DataError, match="split 'dev' is none of train, val, test"):
        read_dataset(tmp_path, "dev")
    with pytest.raises(DataError, match="no Parquet files"):
        read_dataset(tmp_path, "val")
