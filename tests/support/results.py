"""What earlier stages leave behind, small, for tests of the stages that read it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from safeclip.core.records import QUADRUPLETS, TRUTH, write_table
from tests.training.adapters import write_adapter
from tests.training.tiny import tiny_encoder, tiny_table


def truth_of(table: pa.Table, unsafe: Sequence[bool | None]) -> pa.Table:
    """Say of each row of `table` whether its generated caption and picture are unsafe."""
    rows = [
        {"id": row, "text_unsafe": value, "image_unsafe": value}
        for row, value in zip(table["id"].to_pylist(), unsafe, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=TRUTH)


def lay_out(root: Path, unsafe: Sequence[bool | None], known: Sequence[bool] = ()) -> None:
    """A tiny encoder, an adapter for it, and one test row of the picture book per value of `unsafe`.

    known: the same of the val split, which is left out without any.
    """
    encoder = tiny_encoder(root / "data/base_encoder")
    write_adapter(encoder, root / "results/finetune/adapter.safetensors", seed=3)
    table = tiny_table(len(unsafe), "test")
    column = table.schema.get_field_index("image_model")
    table = table.set_column(column, "image_model", [["picturebook"] * len(unsafe)])
    write_table(root / "results/validate_data/dataset/test-00000.parquet", table, QUADRUPLETS)
    truth = truth_of(table, unsafe)
    if known:
        val = tiny_table(len(known), "val", seed=5)
        write_table(root / "results/validate_data/dataset/val-00000.parquet", val, QUADRUPLETS)
        truth = pa.concat_tables([truth, truth_of(val, known)])
    write_table(root / "results/render_images/truth.parquet", truth, TRUTH)
