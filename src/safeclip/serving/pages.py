"""What a browser or a scraper GETs: the page at /ui, thumbnails, the OpenAPI document, metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from safeclip.serving.images import blurred
from safeclip.serving.observed import exposition
from safeclip.serving.openapi import document

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
    """A row of the gallery: a thumbnail, or the text. Blurred, or no text, unless asked for with `?shown`."""
    engine: Any = request.app.state.engine
    row = request.path_params["row"]
    if engine.index is None or row >= engine.index.size:
        return JSONResponse({"error": f"the gallery has no row {row}"}, 404)
    thumbnail = engine.index.thumbnail(row)
    shown = "shown" in request.query_params
    if thumbnail:
        picture = thumbnail if shown else blurred(thumbnail)
        return Response(picture, media_type="image/webp", headers=GUARDED)
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
