"""What queries retrieve, before and after, as the page shows it: captions and pictures beside the row ids.

An unsafe picture is blurred in its pixels and an unsafe caption replaced by its categories. With `uncover`
the page also holds the picture and the caption themselves, hidden until the reader asks for that query's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safeclip.errors import DataError
from safeclip.pages.pictures import blurred, thumbnail

TITLES = {
    "unsafe_t2i": "What unsafe captions retrieve from safe and generated pictures together",
    "unsafe_i2t": "What unsafe pictures retrieve from safe and generated captions together",
    "safe_t2i": "What safe captions retrieve from safe and generated pictures together",
    "safe_i2t": "What safe pictures retrieve from safe and generated captions together",
}
_SIDE = 72  # pixels of a thumbnail


@dataclass(frozen=True)
class Shown:
    """A caption or a picture on the page. `cover` is always there; `plain` only for what may be uncovered."""

    picture: bool
    unsafe: bool
    cover: str
    plain: str | None
    alt: str


@dataclass(frozen=True)
class Line:
    """One query and what each model finds for it, in the models' order."""

    query: Shown
    found: dict[str, list[Shown]]

    @property
    def coverable(self) -> bool:
        """Whether anything of it is hidden and can be shown."""
        items = [self.query, *(item for items in self.found.values() for item in items)]
        return any(item.plain is not None for item in items)


def lookups(
    retrieved: Mapping[str, Sequence[Mapping[str, Any]]],
    rows: Mapping[str, Mapping[str, Any]],
    models: Sequence[str],
    uncover: bool,
) -> list[tuple[str, str, list[Line]]]:
    """(name, title, lines) of each lookup in retrieved.json. rows: the data set's rows by id."""
    shown = []
    for name, title in TITLES.items():
        texts = name.endswith("t2i")
        lines = [
            Line(
                _shown(line["query"], rows, not texts, uncover),
                {
                    model: [_shown(item, rows, texts, uncover) for item in line["found"][model]]
                    for model in models
                    if model in line["found"]
                },
            )
            for line in retrieved.get(name, ())
        ]
        if lines:
            shown.append((name, title, lines))
    return shown


def _shown(
    item: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], picture: bool, uncover: bool
) -> Shown:
    row = rows.get(item["id"])
    if row is None:
        raise DataError(f"retrieved.json: {item['id']} is no row of the data set; run the stage evaluate")
    kind = ", ".join(row["categories"]) or "no category"
    plain_text = row[f"caption_{item['side']}"]
    if not picture:
        cover = f"[unsafe caption: {kind}]" if item["unsafe"] else plain_text
        return Shown(False, item["unsafe"], cover, plain_text if item["unsafe"] and uncover else None, "")
    image = row[f"image_{item['side']}"]
    if item["unsafe"]:
        plain = thumbnail(image, _SIDE) if uncover else None
        return Shown(True, True, blurred(image), plain, f"unsafe picture ({kind})")
    alt = plain_text if item["side"] == "safe" else "generated picture, judged safe"
    return Shown(True, False, thumbnail(image, _SIDE), None, alt)
