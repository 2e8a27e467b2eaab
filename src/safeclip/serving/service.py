"""The `safeclip-embedder` BentoML service.

The supervisor process imports this module too, so torch and open_clip are imported in the worker only.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bentoml
from bentoml.exceptions import InvalidArgument

from safeclip.errors import DataError, GuardError
from safeclip.serving.images import MAX_PIXELS, decode_image
from safeclip.serving.middleware import MAX_BODY_BYTES, BodyLimit
from safeclip.serving.schemas import (
    MAX_IMAGES,
    MAX_TEXT_CHARS,
    MAX_TEXTS,
    Embeddings,
    EncodeImageRequest,
    EncodeTextRequest,
    Info,
)

LIMITS = {
    "texts": MAX_TEXTS,
    "text_chars": MAX_TEXT_CHARS,
    "images": MAX_IMAGES,
    "image_pixels": MAX_PIXELS,
    "body_bytes": MAX_BODY_BYTES,
}


@bentoml.service(name="safeclip-embedder", workers=1, traffic={"timeout": 30, "max_concurrency": 64})
class SafeclipEmbedder:
    """Safe image and text embeddings: l2-normalised, comparable by dot product."""

    def __init__(self) -> None:
        from safeclip.serving.embedder import Embedder

        self.embedder = Embedder(Path(bentoml.models.get("weights").path))
        self.pool = ThreadPoolExecutor(max_workers=1)  # one torch job at a time; the event loop stays free

    @bentoml.api
    async def encode_text(self, request: EncodeTextRequest, /) -> Embeddings:
        """Embed texts."""
        return await self._embed(self.embedder.texts, request.texts)

    @bentoml.api
    async def encode_image(self, request: EncodeImageRequest, /) -> Embeddings:
        """Embed images."""
        try:
            images = [decode_image(text, index) for index, text in enumerate(request.images)]
        except DataError as error:
            raise InvalidArgument(str(error)) from None
        return await self._embed(self.embedder.images, images)

    @bentoml.api
    async def info(self) -> Info:
        """Version, lineage and limits."""
        return Info(limits=LIMITS, **self.embedder.info)

    async def _embed(self, embed: Any, items: list[Any]) -> Embeddings:
        try:
            vectors = await asyncio.get_running_loop().run_in_executor(self.pool, embed, items)
        except (DataError, GuardError) as error:
            raise InvalidArgument(str(error)) from None
        return Embeddings(embeddings=vectors.tolist(), version=self.embedder.info["version"])


SafeclipEmbedder.add_asgi_middleware(BodyLimit)  # type: ignore[attr-defined]  # the decorator made a Service
