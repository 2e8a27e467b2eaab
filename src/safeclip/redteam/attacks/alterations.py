"""What the attacks on pictures share: one picture at a time, blindly, once."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

from PIL import Image

from safeclip.encoders.load import decode_image
from safeclip.redteam.queries import Access, Query, Victim

Alteration = Callable[[Image.Image, Query], Image.Image]


class AlteringAttack:
    """Applies an alteration to each query's picture; the result is stored without loss."""

    access: Access = "blind"
    budget = 1

    def __init__(self, name: str, alter: Alteration) -> None:
        self.name, self._alter = name, alter

    def pictures(self, queries: Sequence[Query], victim: Victim) -> list[list[bytes]]:
        """One altered picture a query. `victim` is not looked at."""
        return [[png(self._alter(decode_image(query.image, query.row), query))] for query in queries]


def png(picture: Image.Image) -> bytes:
    """The picture as PNG bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
