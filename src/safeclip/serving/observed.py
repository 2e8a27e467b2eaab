"""Log one JSON line for each request and keep Prometheus metrics, neither with any content.

Also gives every error one shape, `{"error": "..."}`: BentoML's own are objects, lists and masked 500s.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Collection
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from safeclip.serving.middleware import OPEN, App, Message, Receive, Scope, Send, refuse

REQUESTS = Counter("safeclip_requests", "Answers by route and status", ["route", "status"])
SECONDS = Histogram(
    "safeclip_request_seconds",
    "Time to answer",
    ["route"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
BATCHES = Histogram("safeclip_batch_items", "Items of a model run", ["model"], buckets=(1, 2, 4, 8, 16))
BACKLOG = Gauge("safeclip_backlog_seconds", "Estimated work waiting", multiprocess_mode="livesum")
UNSAFE = Counter("safeclip_unsafe_inputs", "Inputs of score and search judged unsafe", ["modality"])

# Headers of a rewritten error that stay.
KEPT = ("retry-after", "www-authenticate", "allow")
# An unknown field that looks like this is named in the answer; anything else may be content.
_NAME = re.compile(r"[A-Za-z_]\w{0,39}", re.ASCII)

access = logging.getLogger("safeclip.access")


def log_to_stdout() -> None:
    """Send access lines to standard output as they are, and keep BentoML from logging client faults."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    access.handlers, access.propagate = [handler], False
    access.setLevel(logging.INFO)
    logging.getLogger("bentoml._internal.server.http_app").addFilter(_is_our_fault)


def _is_our_fault(record: logging.LogRecord) -> bool:
    """Drop tracebacks of refused requests: they are counted, and a traceback can quote what was sent."""
    from bentoml.exceptions import BentoMLException
    from pydantic import ValidationError

    error = record.exc_info[1] if record.exc_info else None
    refused = isinstance(error, BentoMLException) and error.error_code.value < 500
    return not refused and not isinstance(error, ValidationError)


def exposition() -> bytes:
    """Everything measured, of all workers, in Prometheus' text format."""
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)


class Observed:
    """Times, counts and logs each request by its route, and gives errors their one shape."""

    def __init__(self, app: App, routes: Collection[str]) -> None:
        self.app = app
        self.routes = frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            return await self.app(scope, receive, send)
        answer = _Answer(send)
        start = time.perf_counter()
        try:
            await self.app(scope, receive, answer.send)
        except Exception as error:  # the message may hold what was sent: type and place are enough
            frames = traceback.extract_tb(error.__traceback__)[-3:]
            places = [f"{frame.filename}:{frame.lineno}" for frame in reversed(frames)]
            access.error(json.dumps({"fault": type(error).__name__, "at": places}))
            if not answer.status:
                answer.status = 500
                await refuse(send, 500, "a fault of the service; its log says where")
        finally:
            self._record(scope, answer, time.perf_counter() - start)

    def _record(self, scope: Scope, answer: _Answer, seconds: float) -> None:
        route = scope["path"] if scope["path"] in self.routes else "other"  # a path can hold content too
        status = answer.status or 504  # cancelled by the time limit, which answers outside
        REQUESTS.labels(route, str(status)).inc()
        SECONDS.labels(route).observe(seconds)
        line: dict[str, Any] = {"time": round(time.time(), 3), "method": scope["method"], "route": route}
        line |= {"status": status, "ms": round(1000 * seconds, 2), "bytes": answer.size}
        access.info(json.dumps(line))


class _Answer:
    """Passes an answer on; one with a status from 400 is held back and rewritten as `{"error": ...}`."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._body = b""
        self._headers: dict[str, str] = {}
        self.status = self.size = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._headers = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
        if self.status < 400:
            self.size += len(message.get("body", b""))
            return await self._send(message)
        self._body += message.get("body", b"")
        if message["type"] == "http.response.body" and not message.get("more_body"):
            kept = {name: value for name, value in self._headers.items() if name in KEPT}
            if self.status == 429:
                kept.setdefault("retry-after", "1")
            await refuse(self._send, self.status, _error_of(self._body, self.status), kept)
        return None


def _error_of(body: bytes, status: int) -> str:
    """One line out of BentoML's or Starlette's error body."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {404: "no such route; see /openapi.json", 405: "wrong method; see /openapi.json"}.get(
            status, "the request cannot be answered"
        )
    value = value[0] if isinstance(value, list) and value else value
    if isinstance(value, dict) and isinstance(value.get("detail"), list) and value["detail"]:
        return _fault(value["detail"][0])
    return (
        str(value.get("error", "the request cannot be answered")) if isinstance(value, dict) else str(value)
    )


def _fault(detail: dict[str, Any]) -> str:
    """`texts.3: String should have at least 1 character`; an unknown field is named if it may be a name."""
    place = [str(part) for part in detail.get("loc", ())]
    unknown = detail.get("type") == "extra_forbidden"
    if unknown and not _NAME.fullmatch(place[-1]):
        place.pop()
    message = "unknown field" if unknown else str(detail.get("msg", "not valid"))
    return f"{'.'.join(place) or 'body'}: {message}; see /openapi.json"
