"""Engines that turn captions into pictures. A caption that cannot be drawn is refused, row by row.

The picture book draws what a caption names. As a real image model does, it sometimes misses the point: a
share of its pictures (`misrender`) shows the opposite of what the caption asks, with the unsafe glyphs left
out, or with one added to a harmless caption. Another engine is one more class with `name` and `render`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from safeclip.errors import DataError
from safeclip.picturebook.drawing import Style, draw
from safeclip.picturebook.lexicon import BY_NAME, LEXICON, find_entries
from safeclip.synthesis.keyed import row_generator, row_key

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
