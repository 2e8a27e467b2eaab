"""Middleware in front of every route: bearer tokens, and limits on requests before anything is parsed.

Also reads what the operator sets in the environment (docs/guide/service.md).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from safeclip.core.errors import SettingsError
from safeclip.serving.images import MAX_ASPECT, MAX_PIXELS
from safeclip.serving.schemas import (
    MAX_HITS,
    MAX_IMAGE_CHARS,
    MAX_IMAGES,
    MAX_ITEMS,
    MAX_TEXT_CHARS,
    MAX_TEXTS,
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Routes for the platform: open, unlimited and not logged.
OPEN = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})


def header(scope: Scope, name: bytes) -> bytes:
    """The first header of that (lower-case) name, or nothing."""
    return next((value for key, value in scope["headers"] if key == name), b"")


async def refuse(send: Send, status: int, error: str, headers: Mapping[str, str] | None = None) -> None:
    """Answer `{"error": ...}` and nothing else."""
    body = json.dumps({"error": error}).encode()
    pairs = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    raw = [(name.encode(), value.encode()) for name, value in pairs.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


PRECISIONS = ("float32", "bfloat16")


def _count(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit() or not int(text):
        raise SettingsError(f"{name} = {text!r}: must be a whole number from 1; correct it or unset it")
    return int(text)


def _precision(name: str) -> str:
    text = os.environ.get(name, PRECISIONS[0])
    if text not in PRECISIONS:
        raise SettingsError(f"{name} = {text!r}: must be {' or '.join(PRECISIONS)}; correct it or unset it")
    return text


PRECISION = _precision("SAFECLIP_PRECISION")  # what the towers compute in
WORKERS = _count("SAFECLIP_WORKERS", 1)  # processes, each with its own copy of the model
THREADS = _count("SAFECLIP_THREADS", 1)  # torch threads a worker
BACKLOG_SECONDS = _count("SAFECLIP_BACKLOG", 20)  # estimated work that may wait; less than the time limit
TIMEOUT = _count("SAFECLIP_TIMEOUT", 30)  # seconds until a request is answered with 504


def model_folder() -> Path:
    """The model packaged in the Bento, pinned by its alias; or SAFECLIP_MODEL, for work on the service."""
    if folder := os.environ.get("SAFECLIP_MODEL"):
        return Path(folder)
    import bentoml

    return Path(bentoml.models.get("weights").path)


TOKENS, TOKENS_FILE = "SAFECLIP_TOKENS", "SAFECLIP_TOKENS_FILE"
MIN_CHARS = 16


class Tokens:
    """The bearer tokens that are accepted now; they can be exchanged without a restart.

    SAFECLIP_TOKENS holds tokens separated by commas or spaces. SAFECLIP_TOKENS_FILE names a file with a
    token on each line (`#` begins a comment), read again when it changes; at the start it must be readable
    and hold a token. With neither, every route is open.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._fixed = _digests(re.split(r"[,\s]+", environment.get(TOKENS, "")), TOKENS)
        self._file = Path(environment[TOKENS_FILE]) if environment.get(TOKENS_FILE) else None
        self._stamp: tuple[int, int, int] | None = None
        self._from_file: tuple[bytes, ...] = ()
        if TOKENS in environment and not self._fixed:
            raise SettingsError(f"{TOKENS}: set but empty; give a token, or unset it to open the service")
        if self._file:
            self._reread()

    @property
    def required(self) -> bool:
        """Whether requests need a token."""
        return bool(self._fixed or self._file)

    def accept(self, authorization: str) -> bool:
        """Whether an Authorization header carries an accepted token: `Bearer TOKEN`, or `Basic` with it as
        the password (what a browser can send). Every token is compared, each in constant time."""
        sent = hashlib.sha256(_token(authorization)).digest()
        accepted = False
        for known in (*self._fixed, *self._current()):
            accepted |= hmac.compare_digest(sent, known)
        return accepted

    def _current(self) -> tuple[bytes, ...]:
        """The file's tokens. While it is missing or faulty, as in the middle of an exchange, those before."""
        if self._file:
            try:
                if _stamp(self._file) != self._stamp:
                    self._reread()
            except (OSError, SettingsError):
                pass
        return self._from_file

    def _reread(self) -> None:
        assert self._file is not None
        try:
            stamp, text = _stamp(self._file), self._file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise SettingsError(f"{self._file}: cannot be read; {TOKENS_FILE} names it") from None
        tokens = _digests([line.partition("#")[0].strip() for line in text.splitlines()], str(self._file))
        if not tokens:
            raise SettingsError(f"{self._file}: holds no token; write one a line")
        self._stamp, self._from_file = stamp, tokens


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _digests(tokens: list[str], source: str) -> tuple[bytes, ...]:
    given = [token for token in tokens if token]
    if any(len(token) < MIN_CHARS for token in given):
        raise SettingsError(f"{source}: a token is shorter than {MIN_CHARS} characters; make it longer")
    return tuple(hashlib.sha256(token.encode()).digest() for token in given)


def _token(authorization: str) -> bytes:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""


MAX_BODY_BYTES = 32_000_000
LIMITS = {
    "texts": MAX_TEXTS,
    "text_chars": MAX_TEXT_CHARS,
    "images": MAX_IMAGES,
    "image_base64_chars": MAX_IMAGE_CHARS,
    "image_pixels": MAX_PIXELS,
    "image_aspect": MAX_ASPECT,
    "items": MAX_ITEMS,
    "hits": MAX_HITS,
    "body_bytes": MAX_BODY_BYTES,
}
# Both of all requests that are being read or answered at a time.
MAX_BODIES_BYTES = 160_000_000
MAX_REQUESTS = 256


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
