"""The zero-shot set of an imported data folder: taken over, brought along, or declared absent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from safeclip.errors import DataError
from safeclip.importing.items import ItemFault, read_below
from safeclip.importing.pictures import accept
from safeclip.importing.rows import Limits

PICTURES, PROMPTS = "zeroshot.parquet", "zeroshot_prompts.json"
SCHEMA = pa.schema([("image", pa.binary()), ("label", pa.string())])
TEMPLATES = ("a photo of a {}", "a picture of a {}", "an image of a {}")


def write_zeroshot(folder: Path, source: str, base: Path, limits: Limits) -> None:
    """Write both files below `folder`. source: `keep` (those of `base`), `none` (a table without rows), or a
    folder with one folder of pictures a class, or a data folder that holds both files."""
    given = Path(source)
    if source == "none":
        _write(folder, [])
    elif source == "keep" or (given / PICTURES).is_file():
        for name in (PICTURES, PROMPTS):
            _copy((base if source == "keep" else given) / name, folder / name)
    elif given.is_dir():
        _write(folder, _classes(given, limits))
    else:
        raise DataError(
            f"--zeroshot {source}: no such folder; give one with a folder a class, `keep` or `none`"
        )


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise DataError(f"{source}: no such file; give --zeroshot a folder, or `none`")
    shutil.copyfile(source, target)


def _classes(folder: Path, limits: Limits) -> list[dict]:
    """Rows of class folders, by name; a picture that cannot be used stops the import: a test set is exact."""
    rows = []
    for kind in sorted(path for path in folder.iterdir() if path.is_dir()):
        for name in sorted(path.name for path in kind.iterdir()):
            try:
                picture = accept(
                    read_below(kind, name), name, min_side=limits.min_side, max_side=limits.max_side
                )
            except ItemFault as fault:
                raise DataError(f"{kind / name}: {fault}; mend or remove it") from None
            rows.append({"image": picture.data, "label": kind.name.replace("_", " ")})
    if len({row["label"] for row in rows}) < 2:
        raise DataError(f"{folder}: zero-shot needs at least two folders with pictures, one a class")
    return rows


def _write(folder: Path, rows: list[dict]) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / PICTURES, store_schema=False)
    text = json.dumps({"templates": list(TEMPLATES)}, indent=2) + "\n"
    (folder / PROMPTS).write_text(text, encoding="utf-8")
