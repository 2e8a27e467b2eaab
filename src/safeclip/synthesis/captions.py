"""The safe captions that enter the chain: one JSON object a line, checked line by line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safeclip.core.errors import DataError
from safeclip.core.records import SPLITS

Text = Annotated[str, Field(min_length=1, max_length=1000)]


class SafeCaption(BaseModel):
    """A safe caption and its split; `image` is a path relative to the data folder, None to have it drawn.

    `image_sha256`, where it is given, is the digest of that file: it pins the image.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: Text
    split: Literal["train", "val", "test"]
    caption: Text
    source: Text
    image: Text | None = None
    image_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


def load_captions(path: Path) -> list[SafeCaption]:
    """Read captions.jsonl; a `DataError` names the first line at fault, never its text."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # JSON may hold other line ends
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{path}: cannot be read as UTF-8 text; pull the data folder") from None
    captions = list(_parse(path, lines))
    if not captions:
        raise DataError(f"{path}: holds no captions; pull the data folder")
    return captions


def _parse(path: Path, lines: Sequence[str]) -> Iterator[SafeCaption]:
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            caption = SafeCaption.model_validate_json(line)
        except ValidationError as error:
            fault = error.errors(include_input=False)[0]
            where = ".".join(map(str, fault["loc"])) or "line"
            raise DataError(f"{path}:{number}: `{where}`: {fault['msg']}; correct the line") from None
        if caption.id in seen:
            raise DataError(f"{path}:{number}: id {caption.id!r} stands twice; ids must be unique")
        seen.add(caption.id)
        yield caption


def select_captions(captions: Sequence[SafeCaption], rows: Mapping[str, int]) -> list[SafeCaption]:
    """The first `rows[split]` captions by id of each split, sorted by id; fewer if a split has fewer."""
    ordered = sorted(captions, key=lambda caption: caption.id)
    chosen = []
    for split in SPLITS:
        chosen += [caption for caption in ordered if caption.split == split][: rows[split]]
    return sorted(chosen, key=lambda caption: caption.id)
