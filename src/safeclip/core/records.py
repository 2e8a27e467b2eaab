"""The data contract: one row is a quadruplet (safe caption, generated caption, safe image, generated image).

Tables are Parquet with the schemas below, rows sorted by `id`, written deterministically (no times, fixed
codec, one writer) to a temporary file that is then renamed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from safeclip.core.errors import DataError

SPLITS = ("train", "val", "test")
LABELS = ("safe", "unsafe")

_text = pa.string()
_texts = pa.list_(pa.string())

CAPTIONS = pa.schema(
    [
        ("id", _text),
        ("split", _text),
        ("caption_safe", _text),
        ("caption_generated", _text),
        ("concept", _text),
        ("categories", _texts),
        ("rewriter", _text),
        ("seed", pa.int64()),
        ("source", _text),
    ]
)
"""What `rewrite_captions` writes."""

IMAGES = pa.schema(
    [
        ("id", _text),
        ("image_safe", pa.binary()),
        ("image_generated", pa.binary()),
        ("image_model", _text),
    ]
)
"""What `render_images` writes, in shards."""

TRUTH = pa.schema(
    [
        ("id", _text),
        ("text_unsafe", pa.bool_()),
        ("image_unsafe", pa.bool_()),
        ("glyphs_safe", _texts),
        ("glyphs_generated", _texts),
    ]
)
"""Ground truth: what caption and image really show; null where nobody knows. For the judge only."""

LABELLED = pa.schema(
    [
        ("id", _text),
        ("text_label", _text),
        ("text_score", pa.float32()),
        ("image_label", _text),
        ("image_score", pa.float32()),
    ]
)
"""What `label_safety` writes; scores are probabilities of unsafe."""

QUARANTINE = pa.schema([("id", _text), ("stage", _text), ("reason", _text)])
"""Rejected rows with the reason; never the text."""

QUADRUPLETS = pa.schema(
    [
        ("id", _text),
        ("split", _text),
        ("caption_safe", _text),
        ("caption_generated", _text),
        ("image_safe", pa.binary()),
        ("image_generated", pa.binary()),
        ("concept", _text),
        ("categories", _texts),
        ("text_label", _text),
        ("text_score", pa.float32()),
        ("image_label", _text),
        ("image_score", pa.float32()),
        ("rewriter", _text),
        ("image_model", _text),
        ("seed", pa.int64()),
        ("source", _text),
    ]
)
"""The data contract, as `validate_data` writes it."""

OUTCOMES = pa.schema(
    [
        ("id", _text),
        ("metric", _text),
        ("categories", _texts),
        ("candidate", pa.bool_()),
        ("base", pa.bool_()),
        ("production", pa.bool_()),
    ]
)
"""What `evaluate` writes for the gate: what became of each query, for each model. `production` is null while
nothing is in production. The id is a scene's, or a zero-shot picture's; no text."""


def write_table(path: Path, rows: pa.Table | Sequence[dict], schema: pa.Schema) -> None:
    """Write rows sorted by `id` to `path`, atomically; `DataError` if they do not fit the schema."""
    try:
        table = _fit(rows, schema).sort_by([("id", "ascending")])
    except (pa.ArrowException, KeyError) as error:
        raise DataError(f"{path.name}: rows do not fit the schema ({_first_line(error)})") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(table, partial, compression="zstd", row_group_size=1000, store_schema=False)
    os.replace(partial, path)


def _fit(rows: pa.Table | Sequence[dict], schema: pa.Schema) -> pa.Table:
    """The schema's columns of a table or of dictionaries: a missing key is a null, an unknown one a fault."""
    if isinstance(rows, pa.Table):
        return rows.select(schema.names).cast(schema)
    unknown = sorted(set().union(*rows) - set(schema.names))
    if unknown:
        raise KeyError(f"no column `{unknown[0]}`")
    return pa.Table.from_pylist(list(rows), schema=schema)


def _first_line(error: Exception) -> str:
    return str(error.args[0] if error.args else error).splitlines()[0]


def read_table(paths: Path | Iterable[Path], schema: pa.Schema) -> pa.Table:
    """Read one or more Parquet files of one schema, sorted by `id`; `DataError` names the file at fault."""
    files = [paths] if isinstance(paths, Path) else sorted(paths)
    if not files:
        raise DataError("no Parquet files to read; run the stage that writes them")
    tables = [read_columns(path, schema) for path in files]
    return pa.concat_tables(tables).sort_by([("id", "ascending")])


def read_columns(path: Path, schema: pa.Schema) -> pa.Table:
    """Read the schema's columns of one Parquet file in the file's order; `DataError` names what is wrong."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run the stage that writes it") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not readable as Parquet ({_first_line(error)})") from None
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise DataError(f"{path}: columns missing: {', '.join(missing)}; written by another version?")
    try:
        return table.select(schema.names).cast(schema)
    except pa.ArrowException as error:
        raise DataError(f"{path}: does not fit the schema ({_first_line(error)})") from None


def read_dataset(folder: Path, split: str) -> pa.Table:
    """The validated quadruplets of one split, sorted by id. `folder` is results/validate_data/dataset."""
    if split not in SPLITS:
        raise DataError(f"split {split!r} is none of {', '.join(SPLITS)}")
    return read_table(folder.glob(f"{split}-*.parquet"), QUADRUPLETS)
