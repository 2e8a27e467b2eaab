"""Make a gallery index of a folder with a packaged model; interrupted, it goes on where it stopped.

Images (PNG, JPEG, WebP) and captions (each line of a .txt file) become rows, in the order of their paths.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from safeclip.core.checkpoints import Scratch, remove_stale
from safeclip.core.errors import DataError, GuardError
from safeclip.core.images import encode, shrink
from safeclip.serving.embedder import Embedder
from safeclip.serving.index import IndexItem, IndexRow, join_rows, write_rows
from safeclip.serving.schemas import MAX_TEXT_CHARS

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")
PART_ROWS = 512
THUMBNAIL_SIDE = 160


@dataclass(frozen=True)
class Source:
    """An image file, or a line of a text file."""

    id: str
    path: Path
    text: str | None = None


def build_index(folder: Path, out: Path, embedder: Embedder) -> tuple[int, list[str]]:
    """Write the index `out`; returns the number of rows and a line for each item that was left out.

    `DataError` if there is nothing to index or `out` exists already.
    """
    if out.exists():
        raise DataError(f"{out}: exists already; remove it or name another")
    sources = list(_sources(folder))
    if not sources:
        raise DataError(f"{folder}: neither pictures ({', '.join(EXTENSIONS)}) nor .txt files; name another")
    partial = out.with_name(f".{out.name}.partial")
    store = Scratch("index build", partial / _plan(sources, embedder)[:16])
    remove_stale(store.stage, store.folder)
    faults: list[str] = []
    for number in tqdm(range(0, len(sources), PART_ROWS), unit="part", mininterval=5):
        faults += _write_part(store, f"part-{number:09}", sources[number : number + PART_ROWS], embedder)
    parts = sorted(path.parent for path in store.folder.glob("part-*/served.npy"))
    if not parts:
        raise DataError(f"{folder}: no item can be used; the first: {faults[0]}")
    whole = store.folder / "index"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    join_rows(parts, whole, embedder.encoder.digest, embedder.base.digest)
    os.replace(whole, out)
    shutil.rmtree(partial)
    return len(sources) - len(faults), faults


def _sources(folder: Path) -> Iterator[Source]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in EXTENSIONS and path.is_file():
            yield Source(name, path)
        elif path.suffix.lower() == ".txt" and path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            yield from (
                Source(f"{name}:{number}", path, line.strip())
                for number, line in enumerate(lines, 1)
                if line.strip()
            )


def _plan(sources: list[Source], embedder: Embedder) -> str:
    """What parts on disk must have been made of to be used again."""
    digest = hashlib.sha256(f"{embedder.encoder.digest} {embedder.base.digest} {PART_ROWS}".encode())
    for source in sources:
        status = source.path.stat()
        digest.update(f"\0{source.id} {status.st_size} {status.st_mtime_ns} {source.text}".encode())
    return digest.hexdigest()


def _write_part(store: Scratch, part: str, sources: list[Source], embedder: Embedder) -> list[str]:
    """Keep the rows of one part; returns the faults (read back if the part is there already)."""
    target = store.folder / part
    if store.has(part):
        faults: list[str] = json.loads((target / "faults.json").read_text())
        return faults
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    rows, faults = _rows(sources, embedder)
    if rows:
        write_rows(target, rows)
    (target / "faults.json").write_text(json.dumps(faults))
    store.keep(part, sorted(target.iterdir()))
    return faults


def _rows(sources: list[Source], embedder: Embedder) -> tuple[list[IndexRow], list[str]]:
    rows: list[IndexRow | None] = [None] * len(sources)
    faults: list[str] = []
    texts: list[int] = []
    for at, source in enumerate(sources):
        try:
            if source.text is None:
                rows[at] = _image_row(source, embedder)
            elif len(source.text) > MAX_TEXT_CHARS:
                raise DataError(f"{source.id} is longer than {MAX_TEXT_CHARS} characters; shorten it")
            else:
                embedder.check_text(source.text, source.id)
                texts.append(at)
        except (DataError, GuardError) as error:
            faults.append(str(error))
    for at, row in zip(texts, _text_rows([sources[at] for at in texts], embedder), strict=True):
        rows[at] = row
    return [row for row in rows if row], faults


def _image_row(source: Source, embedder: Embedder) -> IndexRow:
    data = source.path.read_bytes()
    pixels = embedder.prepare_image(base64.b64encode(data).decode(), source.id)
    served, base = (embedder.images([pixels], base=which) for which in (False, True))
    (score,) = embedder.scorer.score("image", base, served)
    return IndexRow(
        IndexItem(source.id, "image", embedder.scorer.marks("image", score)),
        served[0],
        base[0],
        encode(shrink(data, THUMBNAIL_SIDE), "WEBP", quality=80),
    )


def _text_rows(sources: list[Source], embedder: Embedder) -> list[IndexRow]:
    words = [source.text or "" for source in sources]
    served, base = (embedder.texts(words, base=which) for which in (False, True))
    scores = embedder.scorer.score("text", base, served)
    return [
        IndexRow(
            IndexItem(source.id, "text", embedder.scorer.marks("text", score), source.text),
            vector,
            base_vector,
        )
        for source, score, vector, base_vector in zip(sources, scores, served, base, strict=True)
    ]
