"""ASGI middleware in front of every route: what may come in at all, before anything is parsed."""

from __future__ import annotations

from safeclip.serving.asgi import OPEN, App, Message, Receive, Scope, Send, header, refuse
from safeclip.serving.tokens import Tokens

MAX_BODY_BYTES = 32_000_000
MAX_BODIES_BYTES = 160_000_000
"""Of all requests being read or answered together."""
MAX_REQUESTS = 256
"""Being read or answered at a time."""


class TokenGate:
    """401 without an accepted token, if tokens are set; the platform's routes stay open."""

    def __init__(self, app: App, tokens: Tokens | None = None) -> None:
        self.app = app
        self.tokens = Tokens() if tokens is None else tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN and not self._accepted(scope):
            page = scope["method"] == "GET"  # a browser asks for a password then: any name, the token
            challenge = 'Basic realm="safeclip"' if page else "Bearer"
            error = "a token is needed: Authorization: Bearer TOKEN"
            return await refuse(send, 401, error, {"www-authenticate": challenge})
        return await self.app(scope, receive, send)

    def _accepted(self, scope: Scope) -> bool:
        if not self.tokens.required:
            return True
        return self.tokens.accept(header(scope, b"authorization").decode("latin-1"))


class _BodyTooLarge(Exception):
    pass


class RequestLimits:
    """413 for a body over the limit, declared or chunked; 429 where too many requests or bytes are held."""

    def __init__(
        self,
        app: App,
        max_bytes: int = MAX_BODY_BYTES,
        max_total: int = MAX_BODIES_BYTES,
        max_requests: int = MAX_REQUESTS,
    ) -> None:
        self.app = app
        self.max_bytes, self.max_total, self.max_requests = max_bytes, max_total, max_requests
        self.held_bytes = self.held_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            return await self.app(scope, receive, send)
        declared = header(scope, b"content-length") or b"0"
        if not declared.isdigit() or int(declared) > self.max_bytes:
            return await self._too_large(send)
        if self.held_requests >= self.max_requests or self.held_bytes + int(declared) > self.max_total:
            return await self._too_many(send)
        self.held_requests += 1
        try:
            return await self._guarded(scope, receive, send)
        finally:
            self.held_requests -= 1

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen, started, over = 0, False, False

        async def counted() -> Message:
            nonlocal seen, over
            message = await receive()
            size = len(message.get("body", b""))
            seen += size
            self.held_bytes += size
            if seen > self.max_bytes or self.held_bytes > self.max_total:
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
        finally:
            self.held_bytes -= seen
        if over and not started:
            await (self._too_large(send) if seen > self.max_bytes else self._too_many(send))

    async def _too_large(self, send: Send) -> None:
        await refuse(send, 413, f"body over {self.max_bytes} bytes; send fewer items")

    async def _too_many(self, send: Send) -> None:
        await refuse(send, 429, "too many requests at once; send it again in 1 s", {"retry-after": "1"})
