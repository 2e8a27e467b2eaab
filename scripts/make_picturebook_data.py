"""Make the picture-book data that enters the chain: captions.jsonl, the zero-shot set and its prompts.

Same seed, same bytes. Example: python scripts/make_picturebook_data.py --out data --seed 0
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from picturebook.drawing import draw
from picturebook.grammar import safe_scene
from picturebook.lexicon import LEXICON
from picturebook.templates import ZEROSHOT_TEMPLATES
from safeclip.core.errors import DataError, SafeclipError

SIZES = {"train": 2400, "val": 400, "test": 2400}
SOURCE = "picture-book grammar"


def split_of(names: Iterable[str], sizes: dict[str, int]) -> str:
    """The split of a scene, from the hash of its set of glyph names, in proportion to `sizes`."""
    digest = hashlib.sha256("|".join(sorted(set(names))).encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64 * sum(sizes.values())
    for split, size in sizes.items():
        if position < size:
            return split
        position -= size
    return split


def caption_rows(seed: int, sizes: dict[str, int]) -> list[dict[str, str | None]]:
    """Safe captions until every split is full: no caption and no set of glyphs twice."""
    rng, left, seen = np.random.default_rng(seed), dict(sizes), set()
    rows: list[dict[str, str | None]] = []
    for _ in range(100 * sum(sizes.values())):
        if not any(left.values()):
            return rows
        scene = safe_scene(rng)
        key, split = frozenset(scene.names), split_of(scene.names, sizes)
        if key in seen or not left[split]:
            continue
        seen.add(key)
        left[split] -= 1
        row = {"split": split, "caption": scene.caption, "source": SOURCE, "image": None}
        rows.append({"id": f"pb-{len(rows):06d}", **row})
    raise DataError(f"the grammar ran out of new scenes with {left} still to fill; ask for fewer rows")


def zeroshot_classes(classes: int) -> list[int]:
    """Safe entries spread evenly over the lexicon, by their index in it."""
    safe = [index for index, entry in enumerate(LEXICON) if not entry.unsafe]
    if not 2 <= classes <= len(safe):
        raise DataError(f"{classes} zero-shot classes asked for; use 2 to {len(safe)}")
    return [safe[at] for at in np.linspace(0, len(safe) - 1, classes).round().astype(int)]


def zeroshot_rows(seed: int, indices: list[int], per_class: int) -> Iterator[dict[str, str | bytes]]:
    """`per_class` single-glyph photos of each entry."""
    for index in indices:
        name = LEXICON[index].name
        for number in range(per_class):
            drawing = draw(name, "photo", (seed * len(indices) + index) * per_class + number)
            yield {"image": drawing.png, "label": name}


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
    print(f"{path}: {len(content):,} bytes")


def _parquet(rows: Iterable[dict[str, str | bytes]]) -> bytes:
    schema = pa.schema([("image", pa.binary()), ("label", pa.string())])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema), sink, compression="zstd", store_schema=False)
    return sink.getvalue().to_pybytes()


def make(out: Path, seed: int, sizes: dict[str, int], classes: int, per_class: int) -> None:
    """Write the three files into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) for row in caption_rows(seed, sizes)]
    _write(out / "captions.jsonl", ("\n".join(lines) + "\n").encode())
    _write(out / "zeroshot.parquet", _parquet(zeroshot_rows(seed, zeroshot_classes(classes), per_class)))
    prompts = json.dumps({"templates": list(ZEROSHOT_TEMPLATES)}, indent=2) + "\n"
    _write(out / "zeroshot_prompts.json", prompts.encode())


def main() -> None:
    """Read the arguments; exit status 1 with one line if they cannot be met."""
    parser = argparse.ArgumentParser(
        description="Make the picture-book captions and the zero-shot set.",
        epilog="example: python scripts/make_picturebook_data.py --out data --seed 0",
    )
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder to write to (default: data)")
    parser.add_argument("--seed", type=int, default=0, help="seed of captions and pictures (default: 0)")
    for split, size in SIZES.items():
        parser.add_argument(f"--{split}", type=int, default=size, help=f"rows of {split} (default: {size})")
    parser.add_argument("--classes", type=int, default=60, help="zero-shot classes (default: 60)")
    parser.add_argument("--per-class", type=int, default=10, help="pictures a class (default: 10)")
    args = parser.parse_args()
    try:
        sizes = {split: getattr(args, split) for split in SIZES}
        make(args.out, args.seed, sizes, args.classes, args.per_class)
    except SafeclipError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
