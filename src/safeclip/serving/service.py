"""The `safeclip-embedder` BentoML service.

The supervisor process imports this module too, so torch and open_clip are imported in the worker only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import bentoml
import numpy as np
from bentoml.exceptions import BentoMLException, InvalidArgument

from safeclip.core.errors import DataError, GuardError
from safeclip.serving.batcher import Overloaded
from safeclip.serving.middleware import (
    LIMITS,
    PRECISION,
    THREADS,
    TIMEOUT,
    WORKERS,
    RequestLimits,
    TokenGate,
    model_folder,
)
from safeclip.serving.multipart import Multipart
from safeclip.serving.observed import Observed, log_to_stdout
from safeclip.serving.pages import ROUTES, pages
from safeclip.serving.schemas import (
    EmbedResponse,
    EncodeImageRequest,
    EncodeTextRequest,
    InfoRequest,
    InfoResponse,
    RankedItem,
    RankRequest,
    RankResponse,
    ScoreRequest,
    ScoreResponse,
    SearchRequest,
    SearchResponse,
)

if TYPE_CHECKING:
    from safeclip.serving.engine import Engine


class _TooManyRequests(BentoMLException):
    error_code = HTTPStatus.TOO_MANY_REQUESTS


@contextmanager
def _faults_as_http() -> Iterator[None]:
    """Answer faults of the request with 400 and a full queue with 429."""
    try:
        yield
    except (DataError, GuardError) as error:
        raise InvalidArgument(str(error)) from None
    except Overloaded as error:
        raise _TooManyRequests(str(error)) from None


@bentoml.service(
    name="safeclip-embedder",
    workers=WORKERS,
    traffic={"timeout": TIMEOUT},
    metrics={"enabled": False},  # labels by path grow without bound; ours are by route
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ["/"]},  # none is exported, but the spans cost a quarter of a text's CPU here
)
class SafeclipEmbedder:
    """Safe image and text embeddings: l2-normalised, comparable by dot product."""

    engine: Engine

    def __init__(self) -> None:
        from safeclip.serving.engine import Engine

        log_to_stdout()
        gallery = os.environ.get("SAFECLIP_GALLERY")
        self.engine = Engine(model_folder(), Path(gallery) if gallery else None, THREADS, PRECISION)
        self.version: str = self.engine.embedder.info["version"]
        pages.state.engine = self.engine

    @bentoml.on_shutdown
    def close(self) -> None:
        """Finish what was accepted."""
        self.engine.close()

    @bentoml.api
    async def encode_text(self, request: EncodeTextRequest, /) -> EmbedResponse:
        """Embed texts."""
        with _faults_as_http():
            vectors = await self.engine.encode_texts(request.texts)
        return EmbedResponse(embeddings=[vector.tolist() for vector in vectors], version=self.version)

    @bentoml.api
    async def encode_image(self, request: EncodeImageRequest, /) -> EmbedResponse:
        """Embed images."""
        with _faults_as_http():
            vectors = await self.engine.encode_images(request.images)
        return EmbedResponse(embeddings=[vector.tolist() for vector in vectors], version=self.version)

    @bentoml.api
    async def rank(self, request: RankRequest, /) -> RankResponse:
        """Put texts or images in order by a query."""
        with _faults_as_http():
            query, _ = await self.engine.encode_items([request.query], "query", with_base=False)
            items, _ = await self.engine.encode_items(request.items, "items", with_base=False)
        scores = items @ query[0]
        order = np.argsort(-scores, kind="stable")
        ranking = [RankedItem(index=int(row), score=float(scores[row])) for row in order]
        return RankResponse(ranking=ranking, version=self.version)

    @bentoml.api
    async def search(self, request: SearchRequest, /) -> SearchResponse:
        """Find the nearest items of the mounted gallery."""
        with _faults_as_http():
            scores, served, base = await self.engine.score([request.query], "query")
            hits = await self.engine.nearest(served[0], request.k, base=False)
            base_hits = None
            if request.with_base:
                base_hits = await self.engine.nearest(base[0], request.k, base=True)
        return SearchResponse(hits=hits, base_hits=base_hits, query=scores[0], version=self.version)

    @bentoml.api
    async def score(self, request: ScoreRequest, /) -> ScoreResponse:
        """Judge how unsafe inputs are, by base and served embeddings."""
        with _faults_as_http():
            scores, _, _ = await self.engine.score(request.items, "items")
        return ScoreResponse(scores=scores, version=self.version)

    @bentoml.api(input_spec=InfoRequest)
    async def info(self) -> InfoResponse:
        """Version, lineage, metrics and limits."""
        embedder, index = self.engine.embedder, self.engine.index
        gallery = index.described if index else None
        return InfoResponse(
            limits=LIMITS, gallery=gallery, scoring=embedder.scorer.described, **embedder.info
        )


# outermost first
SafeclipEmbedder.add_asgi_middleware(Observed, routes=ROUTES)  # type: ignore[attr-defined]
SafeclipEmbedder.add_asgi_middleware(TokenGate)  # type: ignore[attr-defined]
SafeclipEmbedder.add_asgi_middleware(RequestLimits)  # type: ignore[attr-defined]
SafeclipEmbedder.add_asgi_middleware(Multipart)  # type: ignore[attr-defined]
SafeclipEmbedder.mount_asgi_app(pages)  # type: ignore[attr-defined]  # the decorator made a Service
