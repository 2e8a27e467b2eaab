"""Turn rows of captions into rows of images, truth and quarantine; engines decide the images.

An engine is a class with `name` and `render`, given in params.yaml by import path, or the one of diffusers.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from safeclip.core.checkpoints import Scratch, remove_stale
from safeclip.core.errors import DataError
from safeclip.synthesis.captions import SafeCaption

STAGE = "render_images"


@dataclass(frozen=True)
class RenderRequest:
    """Ask for a picture of `caption` for the row `id`.

    `may_be_unsafe`: the taxonomy's policy allows it, so an engine's own safety checker does not apply.
    """

    id: str
    caption: str
    may_be_unsafe: bool = False


@dataclass(frozen=True)
class Rendered:
    """An image (PNG or JPEG bytes), or why there is none.

    shows: names of what was drawn; unsafe: whether any of it is. None where nobody knows.
    """

    id: str
    image: bytes | None
    shows: tuple[str, ...] | None = None
    unsafe: bool | None = None
    reason: str = ""


class ImageEngine(Protocol):
    """Requests in, images out, in order; a request decides its image, whatever else is rendered."""

    name: str

    def render(self, requests: Sequence[RenderRequest]) -> Iterator[Rendered]: ...


CaptionTruth = Callable[[str], bool]
"""Whether a caption really asks for something unsafe; only a world that is made up knows."""


def read_image(root: Path, row_id: str, path: str, sha256: str | None = None) -> bytes:
    """The bytes of a safe picture named in the captions file, below `root`; `DataError` names the row.

    With `sha256` they must be the very bytes that the captions file was written for.
    """
    file = (root / path).resolve()
    if not file.is_relative_to(root.resolve()):
        raise DataError(f"{row_id}: image {path!r} is outside the data folder; use a path relative to it")
    try:
        image = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{row_id}: image {path!r} cannot be read ({error.strerror}); restore the file"
        ) from None
    if sha256 is not None and hashlib.sha256(image).hexdigest() != sha256:
        raise DataError(f"{row_id}: image {path!r} is not the file that was imported; restore it")
    return image


KEPT = pa.schema([("id", pa.string()), ("image", pa.binary()), ("reason", pa.string())])


class KeptPictures:
    """Finished micro-batches of pictures, kept until the stage ends well, so that a rerun goes on from there.

    digest: of all that decides a picture. A micro-batch is found again by what it asked (ids, captions).
    """

    def __init__(self, root: Path, digest: str) -> None:
        self._store = Scratch(STAGE, root / digest[:16])
        # unsafe pictures of other settings do not lie about
        remove_stale(STAGE, self._store.folder)

    def read(self, batch: Sequence[RenderRequest]) -> list[Rendered] | None:
        """The pictures of a micro-batch in its order; None if they are not there, or damaged."""
        kept = self._store.read(_piece(batch))
        if kept is None:
            return None
        return [Rendered(**row) for row in pq.read_table(pa.BufferReader(kept), schema=KEPT).to_pylist()]

    def write(self, batch: Sequence[RenderRequest], pictures: Sequence[Rendered]) -> None:
        rows = [{"id": p.id, "image": p.image, "reason": p.reason} for p in pictures]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, KEPT), sink, compression="none")
        self._store.write(_piece(batch), sink.getvalue().to_pybytes())

    def remove(self) -> None:
        """Unsafe pictures are kept once, in the stage's output."""
        shutil.rmtree(self._store.folder, ignore_errors=True)


def _piece(batch: Sequence[RenderRequest]) -> str:
    asked = json.dumps([asdict(request) for request in batch])
    return f"{hashlib.sha256(asked.encode()).hexdigest()[:24]}.parquet"


@dataclass
class RenderedRows:
    """Rows of `records.IMAGES`, `TRUTH` and `QUARANTINE`; each row that went in is in one of the last two."""

    images: list[dict[str, Any]] = field(default_factory=list)
    truth: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class SafePictures:
    """Safe pictures: the file that the captions file names for a row's id, or one drawn by the engine.

    Without an engine a row that names no file has no picture.
    """

    engine: ImageEngine | None
    root: Path
    files: Mapping[str, SafeCaption]

    def render(self, rows: Sequence[Mapping[str, Any]]) -> list[Rendered]:
        """One picture a row, in order; `DataError` if a named file is not there."""
        drawn = [RenderRequest(row["id"], row["caption_safe"]) for row in rows if row["id"] not in self.files]
        if self.engine is None:
            missing = "the captions file names no image, and `render_images.photos` no part that draws one"
            pictures = {one.id: Rendered(one.id, None, reason=missing) for one in drawn}
        else:
            pictures = {picture.id: picture for picture in self.engine.render(drawn)}
        for row in rows:
            if (named := self.files.get(row["id"])) is not None and named.image is not None:
                image = read_image(self.root, named.id, named.image, named.image_sha256)
                pictures[row["id"]] = Rendered(row["id"], image)
        return [pictures[row["id"]] for row in rows]


def render_rows(
    rows: Sequence[Mapping[str, Any]],
    safe: SafePictures,
    generated: ImageEngine,
    allowed: Collection[str] = (),
    truth: CaptionTruth | None = None,
) -> RenderedRows:
    """Both pictures of each row of `records.CAPTIONS`; a row that misses one of them is rejected.

    allowed: the concepts whose pictures may be unsafe by the taxonomy's policy.
    truth: says what a caption asks for; without it nobody knows.
    """
    asked = [RenderRequest(row["id"], row["caption_generated"], row["concept"] in allowed) for row in rows]
    result = RenderedRows()
    for row, before, after in zip(rows, safe.render(rows), generated.render(asked), strict=True):
        for which, picture in (("safe", before), ("generated", after)):
            if picture.image is None:
                reason = f"{which} picture: {picture.reason}"
                result.rejected.append({"id": row["id"], "stage": STAGE, "reason": reason})
                break
        else:
            result.images.append(_image_row(before, after, generated.name))
            asks_unsafe = None if truth is None else truth(row["caption_generated"])
            result.truth.append(_truth_row(asks_unsafe, before, after))
    return result


def _image_row(safe: Rendered, generated: Rendered, model: str) -> dict[str, Any]:
    return {
        "id": safe.id,
        "image_safe": safe.image,
        "image_generated": generated.image,
        "image_model": model,
    }


def _truth_row(asks_unsafe: bool | None, safe: Rendered, generated: Rendered) -> dict[str, Any]:
    """What caption and picture really show; null where nobody knows."""
    return {
        "id": safe.id,
        "text_unsafe": asks_unsafe,
        "image_unsafe": generated.unsafe,
        "glyphs_safe": None if safe.shows is None else list(safe.shows),
        "glyphs_generated": None if generated.shows is None else list(generated.shows),
    }
