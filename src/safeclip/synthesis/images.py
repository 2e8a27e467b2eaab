"""Engines that turn captions into pictures. A caption that cannot be drawn is refused, row by row.

The picture book draws what a caption names. As a real image model does, it sometimes misses the point: a
share of its pictures (`misrender`) shows the opposite of what the caption asks, with the unsafe glyphs left
out, or with one added to a harmless caption. Another engine is one more class with `name` and `render`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from picturebook.drawing import Style, draw
from picturebook.lexicon import BY_NAME, LEXICON, find_entries
from safeclip.core.errors import DataError
from safeclip.core.records import read_table, write_table
from safeclip.synthesis.captions import SafeCaption
from safeclip.synthesis.row_noise import row_generator, row_key

_ADDED = tuple(entry for entry in LEXICON if entry.unsafe and entry.kind == "thing")


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
    """A picture (PNG or JPEG bytes), or why there is none.

    `glyphs` names what the picture book drew; None where nobody knows what the picture shows.
    """

    id: str
    image: bytes | None
    glyphs: tuple[str, ...] | None = None
    reason: str = ""


class ImageEngine(Protocol):
    """Requests in, pictures out, in order; a request decides its picture, whatever else is rendered."""

    name: str

    def render(self, requests: Sequence[RenderRequest]) -> Iterator[Rendered]: ...


class PictureBookEngine:
    """Draws captions in one style with seeds keyed by (project seed, row id, style)."""

    def __init__(self, style: Style, size: int, *, seed: int, misrender: float = 0.0) -> None:
        self.name = f"picturebook-{style}"
        self._style: Style = style
        self._size = size
        self._seed = seed
        self._misrender = misrender

    def render(self, requests: Sequence[RenderRequest]) -> Iterator[Rendered]:
        """One picture a request; one whose caption names nothing the book knows gets a reason instead."""
        for request in requests:
            if not find_entries(request.caption):
                yield Rendered(request.id, None, reason="nothing in the caption can be drawn")
                continue
            caption, omit_unsafe = self._misread(request)
            key = row_key(self._seed, request.id, self.name) >> 1
            drawing = draw(caption, self._style, key, self._size, omit_unsafe)
            yield Rendered(request.id, drawing.png, drawing.glyphs)

    def _misread(self, request: RenderRequest) -> tuple[str, bool]:
        """The caption as the engine understands it, and whether it leaves out what is unsafe in it."""
        chance = row_generator(self._seed, request.id, "misrender")
        if chance.random() >= self._misrender:
            return request.caption, False
        if shows_unsafe(entry.name for entry in find_entries(request.caption)):
            return request.caption, True
        added = _ADDED[int(chance.integers(len(_ADDED)))]
        return f"{added.name}, {request.caption}", False  # first, or a full picture would leave it out


def shows_unsafe(glyphs: Iterator[str] | Sequence[str]) -> bool:
    """Whether any of the picture book's glyphs, given by name, is unsafe."""
    return any(BY_NAME[glyph].unsafe for glyph in glyphs)


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


# Finished micro-batches of pictures, kept until the stage ends well, so that a rerun goes on from there.
#
# A micro-batch is found again by what it asked (ids, captions) and by the digest of all that decides a
# picture.


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


# Rows of captions to rows of pictures, truth and quarantine; engines decide the pictures.


STAGE = "render_images"


@dataclass
class RenderedRows:
    """Rows of `records.IMAGES`, `TRUTH` and `QUARANTINE`; each row that went in is in one of the last two."""

    images: list[dict[str, Any]] = field(default_factory=list)
    truth: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class SafePictures:
    """Safe pictures: the file that the captions file names for a row's id, or one drawn by the engine."""

    engine: ImageEngine
    root: Path
    files: Mapping[str, SafeCaption]

    def render(self, rows: Sequence[Mapping[str, Any]]) -> list[Rendered]:
        """One picture a row, in order; `DataError` if a named file is not there."""
        drawn = [row for row in rows if row["id"] not in self.files]
        pictures = {
            picture.id: picture
            for picture in self.engine.render(
                [RenderRequest(row["id"], row["caption_safe"]) for row in drawn]
            )
        }
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
) -> RenderedRows:
    """Both pictures of each row of `records.CAPTIONS`; a row that misses one of them is rejected.

    `allowed`: the concepts whose pictures may be unsafe by the taxonomy's policy.
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
            result.truth.append(_truth_row(row, before, after))
    return result


def _image_row(safe: Rendered, generated: Rendered, model: str) -> dict[str, Any]:
    return {
        "id": safe.id,
        "image_safe": safe.image,
        "image_generated": generated.image,
        "image_model": model,
    }


def _truth_row(row: Mapping[str, Any], safe: Rendered, generated: Rendered) -> dict[str, Any]:
    """What caption and picture really show: words of the lexicon in the one, glyphs drawn in the other.

    Null for a picture that the picture book did not draw.
    """
    named = [entry.name for entry in find_entries(row["caption_generated"])]
    return {
        "id": row["id"],
        "text_unsafe": shows_unsafe(named),
        "image_unsafe": None if generated.glyphs is None else shows_unsafe(generated.glyphs),
        "glyphs_safe": None if safe.glyphs is None else list(safe.glyphs),
        "glyphs_generated": None if generated.glyphs is None else list(generated.glyphs),
    }
