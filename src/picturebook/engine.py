"""Draw captions: the engine of generated images, that of safe ones, and what both say is true.

As a real image model does, the book sometimes misses the point: a share of its generated images shows the
opposite of what the caption asks, with the unsafe glyphs left out, or with one added to a harmless caption.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from zlib import crc32

from picturebook.drawing import Style, draw
from picturebook.lexicon import BY_NAME, LEXICON, find_entries
from safeclip.synthesis.images import Rendered, RenderRequest
from safeclip.synthesis.row_noise import row_generator, row_key

_ADDED = tuple(entry for entry in LEXICON if entry.unsafe and entry.kind == "thing")


class PictureBook:
    """Draw captions in one style with seeds keyed by (project seed, row id, style)."""

    def __init__(self, size: int, *, seed: int, style: Style = "generated", misrender: float = 0.0) -> None:
        """Draw `size` x `size` pixels; `misrender` is the share of images that miss the point."""
        self.name = f"picturebook-{style}"
        self._style: Style = style
        self._size, self._seed, self._misrender = size, seed, misrender

    def render(self, requests: Sequence[RenderRequest]) -> Iterator[Rendered]:
        """Yield an image a request; one whose caption names nothing the book knows gets a reason instead."""
        for request in requests:
            if not find_entries(request.caption):
                yield Rendered(request.id, None, reason="nothing in the caption can be drawn")
                continue
            caption, omit_unsafe = self._misread(request)
            key = row_key(self._seed, request.id, self.name) >> 1
            drawing = draw(caption, self._style, key, self._size, omit_unsafe)
            yield Rendered(request.id, drawing.png, drawing.glyphs, unsafe=shows_unsafe(drawing.glyphs))

    def _misread(self, request: RenderRequest) -> tuple[str, bool]:
        """Return the caption as the engine understands it, and whether it leaves out what is unsafe in it."""
        chance = row_generator(self._seed, request.id, "misrender")
        if chance.random() >= self._misrender:
            return request.caption, False
        if caption_is_unsafe(request.caption):
            return request.caption, True
        added = _ADDED[int(chance.integers(len(_ADDED)))]
        return f"{added.name}, {request.caption}", False  # first, or a full image would leave it out


class Photos(PictureBook):
    """Draw safe images as photos."""

    def __init__(self, size: int, *, seed: int) -> None:
        super().__init__(size, seed=seed, style="photo")


def draw_calibration(caption: str, item: str) -> bytes:
    """Draw the calibration image `item` in the generated style: PNG bytes."""
    return draw(caption, "generated", crc32(item.encode())).png


def caption_is_unsafe(caption: str) -> bool:
    """Say whether the caption names something unsafe: the truth about it."""
    return shows_unsafe(entry.name for entry in find_entries(caption))


def shows_unsafe(glyphs: Iterable[str]) -> bool:
    """Say whether any of the glyphs, given by name, is unsafe."""
    return any(BY_NAME[glyph].unsafe for glyph in glyphs)
