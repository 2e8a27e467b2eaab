"""Rows of captions to rows of pictures, truth and quarantine; engines decide the pictures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safeclip.picturebook.lexicon import find_entries
from safeclip.synthesis.captions import SafeCaption
from safeclip.synthesis.images import ImageEngine, Rendered, RenderRequest, read_image, shows_unsafe

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
