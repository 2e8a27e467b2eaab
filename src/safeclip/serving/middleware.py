"""ASGI middleware in front of every route: a bound on the body, and a plain front page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 32_000_000
FRONT_PAGE = b"safeclip-embedder: POST /encode_text, /encode_image, /info; schema at /docs.json\n"


class _BodyTooLarge(Exception):
    pass


class BodyLimit:
    """Answers 413 to a body over the limit, declared (content-length) or chunked."""

    def __init__(self, app: App, max_bytes: int = MAX_BODY_BYTES) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["path"] == "/" and scope["method"] == "GET":
            return await _answer(send, 200, FRONT_PAGE)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.max_bytes:
            return await self._refuse(send)
        return await self._guarded(scope, receive, send)

    async def _guarded(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        seen, started, over = 0, False, False

        async def counted() -> Message:
            nonlocal seen, over
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.max_bytes:
                over = True
                raise _BodyTooLarge
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            if over and not started:
                return  # the framework's own 500 for the exception above
            started = True
            await send(message)

        try:
            await self.app(scope, counted, noted)
        except Exception:
            if not over:
                raise
        if over and not started:
            await self._refuse(send)

    async def _refuse(self, send: Send) -> None:
        await _answer(send, 413, f"body over {self.max_bytes} bytes; send fewer items\n".encode())


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
