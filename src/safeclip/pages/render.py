"""Pictures inside a page. What may be unsafe is blurred in its pixels, not by a removable style."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from safeclip.core.images import blur, encode, read_rgb, shrink


def data_uri(png: bytes) -> str:
    """PNG bytes as an address that loads nothing."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def thumbnail(image: bytes, side: int = 96) -> str:
    """PNG or JPEG bytes -> data address of a PNG that fits in `side` x `side` pixels."""
    return data_uri(encode(shrink(image, side), "PNG", optimize=True))


def blurred(image: bytes, side: int = 48) -> str:
    """PNG or JPEG bytes -> data address of a PNG from which the content cannot be recovered."""
    return data_uri(encode(blur(read_rgb(image), (side, side)), "PNG", optimize=True))


# Render a Jinja2 template into one HTML file that loads nothing: style inside, pictures as data, no script.
#
# Every value is escaped unless it is `Markup` made by `safeclip.pages.charts`; an undefined name is an error.


_BASE = Path(__file__).with_name("base.html.j2")
_STYLE = Path(__file__).with_name("style.css")
NOT_MEASURED = "not measured"


def render(template: Path, **context: Any) -> str:
    """Fill `template`, which may extend `base.html.j2`. Text in `context` is escaped."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, _BASE.parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(number=number, percent=percent, count=count, signed=signed)
    style = Markup(_STYLE.read_text(encoding="utf-8"))
    return environment.get_template(template.name).render(style=style, **context)


def number(value: float | None, digits: int = 3) -> str:
    """0.12345 -> "0.123"; a value that was not measured says so and is never shown as zero."""
    return NOT_MEASURED if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """A change with its sign: "+0.012" or "−0.300"."""
    return NOT_MEASURED if value is None else f"{value:+.{digits}f}".replace("-", "−")


def percent(value: float | None) -> str:
    """0.523 -> "52.3 %"."""
    return NOT_MEASURED if value is None else f"{100 * value:.1f} %"


def count(value: int | None) -> str:
    """12345 -> "12,345"."""
    return NOT_MEASURED if value is None else f"{value:,}"
