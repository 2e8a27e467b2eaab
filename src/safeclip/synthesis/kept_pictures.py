"""Finished micro-batches of pictures, kept until the stage ends well, so that a rerun goes on from there.

A micro-batch is found again by what it asked (ids, captions) and by the digest of all that decides a picture.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from safeclip.errors import DataError
from safeclip.records import read_table, write_table
from safeclip.synthesis.images import Rendered, RenderRequest

KEPT = pa.schema([("id", pa.string()), ("image", pa.binary()), ("reason", pa.string())])


class KeptPictures:
    """A git-ignored folder of micro-batches that belong to one digest."""

    def __init__(self, root: Path, digest: str) -> None:
        self.folder = root / digest[:16]

    def read(self, batch: Sequence[RenderRequest]) -> list[Rendered] | None:
        """The pictures of a micro-batch in its order; None if it is not there or was cut short."""
        try:
            rows = {row["id"]: row for row in read_table(self._file(batch), KEPT).to_pylist()}
            return [Rendered(r.id, rows[r.id]["image"], reason=rows[r.id]["reason"]) for r in batch]
        except (DataError, KeyError):
            return None

    def write(self, batch: Sequence[RenderRequest], pictures: Sequence[Rendered]) -> None:
        rows = [{"id": p.id, "image": p.image, "reason": p.reason} for p in pictures]
        write_table(self._file(batch), rows, KEPT)

    def remove(self) -> None:
        """Unsafe pictures are kept once, in the stage's output."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, batch: Sequence[RenderRequest]) -> Path:
        asked = json.dumps([asdict(request) for request in batch])
        return self.folder / f"{hashlib.sha256(asked.encode()).hexdigest()[:24]}.parquet"
