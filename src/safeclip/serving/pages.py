"""What a browser or a scraper GETs: the page at /ui, thumbnails, the OpenAPI document, metrics.

The OpenAPI document has every route, every status and an example for each body. BentoML makes one too, but it
knows neither tokens nor limits nor forms, and promises error bodies that it does not send.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from safeclip import __version__
from safeclip.core.images import blur, encode, read_rgb
from safeclip.serving.observed import exposition
from safeclip.serving.schemas import (
    EmbedResponse,
    EncodeImageRequest,
    EncodeTextRequest,
    Error,
    InfoRequest,
    InfoResponse,
    RankRequest,
    RankResponse,
    ScoreRequest,
    ScoreResponse,
    SearchRequest,
    SearchResponse,
)

POSTS: dict[str, tuple[str, type[BaseModel], type[BaseModel]]] = {
    "/encode_text": ("Embed texts", EncodeTextRequest, EmbedResponse),
    "/encode_image": ("Embed images", EncodeImageRequest, EmbedResponse),
    "/rank": ("Put texts or images in order by a query", RankRequest, RankResponse),
    "/search": ("Find the nearest items of the mounted gallery", SearchRequest, SearchResponse),
    "/score": ("Judge how unsafe inputs are, by base and served embeddings", ScoreRequest, ScoreResponse),
    "/info": ("Version, lineage, metrics and limits", InfoRequest, InfoResponse),
}
GETS = {
    "/ui": ("Compare base and safe retrieval in a browser", "text/html"),
    "/livez": ("The process runs", "text/plain"),
    "/readyz": ("The model is loaded and gives the packaged reference vectors", "text/plain"),
    "/metrics": ("Prometheus metrics", "text/plain"),
}
ROUTES = (*POSTS, *GETS, "/", "/openapi.json", "/docs.json", "/ui/ui.css", "/ui/ui.js")
REFUSALS = {
    "400": "The request is at fault: which field, and what to do",
    "401": "A token is needed",
    "413": "The body is over the limit",
    "429": "Too much work is waiting; Retry-After says when to send it again",
    "503": "Not ready",
    "504": "Not answered within the time limit",
}
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
FORMS = ("/encode_image", "/rank", "/search", "/score")
FORM = {
    "type": "object",
    "properties": {"images": _FILES, "items": _FILES, "query": {"type": "string", "format": "binary"}},
}


@lru_cache
def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    models: list[type[BaseModel]] = [Error, *(answer for _, _, answer in POSTS.values())]
    models += [asked for _, asked, _ in POSTS.values()]
    _, schemas = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    posts = {path: {"post": _post(path, *parts)} for path, parts in POSTS.items()}
    gets = {path: {"get": _get(path, *parts)} for path, parts in GETS.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "safeclip-embedder", "version": __version__, "description": "Safe embeddings"},
        "paths": posts | gets,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _post(path: str, summary: str, asked: type[BaseModel], answer: type[BaseModel]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": summary,
        "operationId": path[1:],
        "responses": {"200": _json("Answered", answer)}
        | {status: _json(why, Error) for status, why in REFUSALS.items()},
    }
    content = {"application/json": {"schema": _ref(asked), "example": _example(asked)}}
    if path in FORMS:
        content["multipart/form-data"] = {"schema": FORM}
    operation["requestBody"] = {"required": True, "content": content}
    return operation


def _get(path: str, summary: str, media_type: str) -> dict[str, Any]:
    answer = {"description": summary, "content": {media_type: {"schema": {"type": "string"}}}}
    return {"summary": summary, "operationId": path[1:], "responses": {"200": answer}}


def _json(description: str, model: type[BaseModel]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _ref(model)}}}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _example(model: type[BaseModel]) -> dict[str, Any]:
    return {name: field.examples[0] for name, field in model.model_fields.items() if field.examples}


HERE = Path(__file__).parent
FILES = {"/ui": "ui.html", "/ui/ui.css": "ui.css", "/ui/ui.js": "ui.js"}
GUARDED = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


async def page(request: Request) -> Response:
    """One of the page's three files."""
    return FileResponse(HERE / FILES[request.url.path], headers=GUARDED)


async def front(request: Request) -> Response:
    """To the page."""
    return RedirectResponse("/ui")


async def openapi(request: Request) -> Response:
    """The complete document, with examples."""
    return JSONResponse(document())


async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(exposition(), media_type="text/plain; version=0.0.4")


async def gallery_item(request: Request) -> Response:
    """Answer with the thumbnail or the text of a row, blurred or null unless asked for with `?shown`."""
    engine: Any = request.app.state.engine
    row = request.path_params["row"]
    if engine.index is None or row >= engine.index.size:
        return JSONResponse({"error": f"the gallery has no row {row}"}, 404)
    thumbnail = engine.index.thumbnail(row)
    shown = "shown" in request.query_params
    if thumbnail:
        if not shown:
            image = read_rgb(thumbnail)
            thumbnail = encode(blur(image, image.size), "WEBP", quality=60)
        return Response(thumbnail, media_type="image/webp", headers=GUARDED)
    return JSONResponse({"text": engine.index.item(row).text if shown else None}, headers=GUARDED)


pages = Starlette(
    routes=[
        Route("/", front),
        *(Route(path, page) for path in FILES),
        Route("/gallery/{row:int}", gallery_item),
        Route("/openapi.json", openapi),
        Route("/docs.json", openapi),
        Route("/metrics", metrics),
    ]
)
