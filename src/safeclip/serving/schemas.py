"""What the service takes and answers. Unknown fields and oversized items are refused (HTTP 400)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_TEXTS = 64
MAX_TEXT_CHARS = 1000
MAX_IMAGES = 16
MAX_IMAGE_CHARS = 6_000_000  # base64; 4.5 MB of PNG or JPEG


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EncodeTextRequest(_Message):
    """Texts to embed; each is cut at the encoder's context length as in training."""

    texts: list[Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]] = Field(
        min_length=1, max_length=MAX_TEXTS, examples=[["a woman walks a dog near the river"]]
    )


class EncodeImageRequest(_Message):
    """PNG, JPEG or WebP files as base64. A URL is never fetched."""

    images: list[Annotated[str, Field(min_length=1, max_length=MAX_IMAGE_CHARS)]] = Field(
        min_length=1, max_length=MAX_IMAGES, description="base64 of a PNG, JPEG or WebP file"
    )


class Embeddings(_Message):
    """One l2-normalised vector an input, in the order sent."""

    embeddings: list[list[float]]
    version: str = Field(description="the Bento model's version; vectors of different versions do not mix")


class Info(_Message):
    """Which model answers, and what it takes."""

    version: str
    base_digest: str
    embed_dim: int
    image_size: int
    context_length: int
    limits: dict[str, int]
