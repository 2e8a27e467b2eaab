"""A chat model behind an OpenAI-compatible HTTP API: many requests in flight, and a clear word on each fault.

A fault of one request (refused, cut short, not JSON, no answer in time) is told with its reply; the others go
on. A fault of the server ends the whole: found by its /health while requests are under way, or by a request
that had no answer in time while no other had one either.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)
from tenacity.wait import wait_base

from safeclip.errors import ModelError
from safeclip.synthesis.chat_protocol import (
    Busy,
    ChatReply,
    ChatRequest,
    Completion,
    Refused,
    Sampling,
    parse,
    raise_for_status,
    read_reply,
    request_body,
)

HEALTH_EVERY, HEALTH_TIMEOUT, HEALTH_MISSES = 1.0, 4.0, 3  # seconds, seconds, misses in a row: dead
_BACKOFF = wait_exponential_jitter(initial=0.25, max=8.0, jitter=0.5)
_LONGEST_PAUSE = 30.0  # seconds, whatever Retry-After asks
_AGAIN = "start it again and rerun, what is finished is kept"


@dataclass(frozen=True)
class ChatEndpoint:
    """The server at `url` (with or without /v1) and the name under which it serves the model."""

    url: str
    model: str
    key: str = field(default="", repr=False)
    in_flight: int = 64  # requests at once
    answer_seconds: float = 120.0  # for one request
    attempts: int = 5  # at one request
    keyed: bool = False  # whether the server samples with our noise
    section: str = "rewrite_captions.vllm"  # of params.yaml, that speaks of the server

    @property
    def root(self) -> str:
        return self.url.rstrip("/").removesuffix("/v1")

    def check(self) -> None:
        """`ModelError` unless the server is there, takes the key and serves the model."""
        names = asyncio.run(self._served())
        if self.model not in names:
            raise ModelError(
                f"{self.root}: serves {', '.join(names) or 'no model'}, not {self.model!r}; mend "
                f"`{self.section}.model`"
            )

    def ask(self, requests: Sequence[ChatRequest], sampling: Sampling) -> list[ChatReply]:
        """One reply a request, in order; `ModelError` if the server is dead, hangs or answers none."""
        replies = asyncio.run(_Exchange(self, sampling).run(requests))
        if replies and all(reply.fault for reply in replies):
            fault = replies[0].fault
            raise ModelError(
                f"{self.root}: none of {len(replies)} requests got an answer ({fault}); {_AGAIN}"
            )
        return replies

    def client(self, timeout: float) -> httpx.AsyncClient:
        """An HTTP client for this server; proxies of the environment are not for the machine itself."""
        return httpx.AsyncClient(
            base_url=self.root,
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 5.0)),
            limits=httpx.Limits(max_connections=self.in_flight, max_keepalive_connections=self.in_flight),
            trust_env=httpx.URL(self.root).host not in ("127.0.0.1", "localhost", "::1"),
        )

    async def _served(self) -> list[str]:
        async with self.client(10.0) as client:
            try:
                answer = await client.get("/v1/models")
                raise_for_status(self.root, answer, self.section)
                return [str(model["id"]) for model in answer.json()["data"]]
            except (httpx.HTTPError, Busy, Refused, ValueError, KeyError, TypeError) as error:
                raise ModelError(
                    f"{self.root}: no chat API there ({error or type(error).__name__}); start the server or "
                    f"mend `{self.section}.url`"
                ) from None


class _Exchange:
    """One `ask`: its bound on requests at once, its watch on the server, when the last answer came."""

    def __init__(self, endpoint: ChatEndpoint, sampling: Sampling) -> None:
        self._endpoint = endpoint
        self._sampling = sampling
        self._slots = asyncio.Semaphore(endpoint.in_flight)
        self._last_answer = 0.0

    async def run(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        async with self._endpoint.client(self._endpoint.answer_seconds) as client:
            replies = asyncio.gather(*(self._reply(client, request) for request in requests))
            watch = asyncio.create_task(self._watch())
            try:
                both: tuple[asyncio.Future[Any], ...] = (replies, watch)
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if not replies.done():
                    raise ModelError(f"{self._endpoint.root}: {watch.result()}; {_AGAIN}")
                return replies.result()
            finally:
                replies.cancel()
                watch.cancel()
                await asyncio.gather(replies, watch, return_exceptions=True)

    async def _watch(self) -> str:
        """Returns what is wrong once the server has missed several looks at its health in a row."""
        misses, fault = 0, ""
        async with self._endpoint.client(HEALTH_TIMEOUT) as client:
            while misses < HEALTH_MISSES:
                await asyncio.sleep(HEALTH_EVERY)
                fault = await _ill(client)
                misses = misses + 1 if fault else 0
        return fault

    async def _reply(self, client: httpx.AsyncClient, request: ChatRequest) -> ChatReply:
        async with self._slots:
            try:
                return read_reply(request, await self._post(client, request), self._sampling)
            except TimeoutError:
                fault = f"none in {self._endpoint.answer_seconds:g} s"
            except (Busy, Refused) as error:
                fault = str(error)
            except httpx.HTTPError as error:
                fault = f"broken connection ({type(error).__name__})"
        return ChatReply(request.id, "", fault=fault)

    async def _post(self, client: httpx.AsyncClient, request: ChatRequest) -> Completion:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((Busy, httpx.TransportError)),
            wait=_Pause(),
            stop=stop_after_attempt(self._endpoint.attempts),
            reraise=True,
        )
        return await retrying(self._post_once, client, request)

    async def _post_once(self, client: httpx.AsyncClient, request: ChatRequest) -> Completion:
        """One attempt. A request that is not answered in time is not asked again; `TimeoutError`."""
        sent, limit = time.monotonic(), self._endpoint.answer_seconds
        body = request_body(self._endpoint.model, request, self._sampling, keyed=self._endpoint.keyed)
        try:
            async with asyncio.timeout(limit):
                answer = await client.post("/v1/chat/completions", json=body)
        except (TimeoutError, httpx.ReadTimeout):
            if self._last_answer < sent:
                raise ModelError(
                    f"{self._endpoint.root}: the server hangs, no answer to anything in {limit:g} s; {_AGAIN}"
                ) from None
            raise TimeoutError from None
        raise_for_status(self._endpoint.root, answer, self._endpoint.section)
        completion = parse(answer)
        self._last_answer = time.monotonic()
        return completion


async def _ill(client: httpx.AsyncClient) -> str:
    """What is wrong with the server's health; empty if nothing is."""
    try:
        status = (await client.get("/health")).status_code
    except httpx.HTTPError as error:
        return f"the server does not answer ({type(error).__name__})"
    return f"the server says that it is ill ({status})" if status >= 500 else ""


class _Pause(wait_base):
    """Seconds before the next attempt: what the server asked for, or longer each time."""

    def __call__(self, retry_state: RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        asked = error.pause if isinstance(error, Busy) else 0.0
        return min(max(asked, _BACKOFF(retry_state)), _LONGEST_PAUSE)
