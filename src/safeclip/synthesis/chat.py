"""What goes over the wire to an OpenAI-compatible chat API, and what each of its answers means.

Only fields that every such server knows are sent, and only those needed are read. A server of ours samples
with the keyed noise of the engine in process instead (vllm_sampler).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)
from tenacity.wait import wait_base

from safeclip.core.errors import ModelError

KEY_VARIABLE = "SAFECLIP_VLLM_API_KEY"


@dataclass(frozen=True)
class ChatRequest:
    """A conversation to answer; `seed` makes the server's sampling the request's own."""

    id: str
    messages: tuple[dict[str, str], ...]
    seed: int


@dataclass(frozen=True)
class ChatReply:
    """What was said; not `complete` if the length limit cut it; `fault` says why there is nothing to use.

    `top_logprobs` are first tokens with their log-probabilities, as many as `Sampling.top_logprobs` asked
    for.
    """

    id: str
    text: str
    complete: bool = True
    fault: str = ""
    top_logprobs: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn and where it ends."""

    max_tokens: int
    temperature: float
    top_p: float
    stop: tuple[str, ...] = ("\n",)
    top_logprobs: int = 0  # tokens that could come first, told with their probabilities


class Busy(Exception):
    """The server asks for patience, or stumbled; `pause` in seconds is what it asked for."""

    def __init__(self, what: str, pause: float = 0.0) -> None:
        super().__init__(what)
        self.pause = pause


class Refused(Exception):
    """The server will not answer this request, however often it is asked."""


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Candidate(BaseModel):
    token: str
    logprob: float


class _Position(BaseModel):
    top_logprobs: list[_Candidate] = []


class _Logprobs(BaseModel):
    content: list[_Position] | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None

    @property
    def top_logprobs(self) -> tuple[tuple[str, float], ...]:
        """What the first token could have been, with log-probabilities; empty if the server did not say."""
        first = (self.logprobs.content if self.logprobs else None) or [_Position()]
        return tuple((candidate.token, candidate.logprob) for candidate in first[0].top_logprobs)


class _Usage(BaseModel):
    completion_tokens: int | None = None


class Completion(BaseModel):
    """The part of an answer that is read."""

    choices: list[_Choice]
    usage: _Usage | None = None


def request_body(model: str, request: ChatRequest, sampling: Sampling, *, keyed: bool) -> dict[str, Any]:
    """The JSON of a request for one answer; `keyed` if the server has our sampler."""
    how = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    drawn = (
        {"temperature": 0.0, "vllm_xargs": {"row_key": request.seed, **how}}
        if keyed and sampling.temperature
        else {"seed": request.seed, **how}
    )
    told = {"logprobs": True, "top_logprobs": sampling.top_logprobs} if sampling.top_logprobs else {}
    return {
        "model": model,
        "messages": list(request.messages),
        "max_tokens": sampling.max_tokens,
        "stop": list(sampling.stop),
        **drawn,
        **told,
    }


def parse(answer: httpx.Response) -> Completion:
    """The answer of a successful request; `Busy` if it is not one (a proxy's page, half a body)."""
    try:
        return Completion.model_validate_json(answer.content)
    except ValidationError:
        raise Busy("not an answer of a chat API") from None


def read_reply(request: ChatRequest, completion: Completion, sampling: Sampling) -> ChatReply:
    """What a completion says to the request.

    The caller's own limit may cut an answer (`complete` is False then); the server's, below it, is a fault.
    """
    if not completion.choices:
        return ChatReply(request.id, "", fault="an answer without a choice")
    choice, usage = completion.choices[0], completion.usage
    said = choice.message.content or ""
    if choice.finish_reason == "content_filter" or choice.message.refusal:
        return ChatReply(request.id, "", fault="refused by the server")
    if sampling.top_logprobs:
        fault = "" if choice.top_logprobs else "no probabilities of its first word"
        return ChatReply(request.id, said, top_logprobs=choice.top_logprobs, fault=fault)
    if not said:
        return ChatReply(request.id, "", fault="refused by the server")
    cut = choice.finish_reason == "length"
    length = usage.completion_tokens if usage else None
    if cut and length is not None and length < sampling.max_tokens:
        return ChatReply(request.id, "", fault="cut short by the server")
    return ChatReply(request.id, said, complete=not cut)


def raise_for_status(root: str, answer: httpx.Response, section: str) -> None:
    """Nothing on success; `Busy`, `Refused`, or `ModelError` for what every request to `root` will meet.

    `section` of params.yaml is the one to mend.
    """
    status = answer.status_code
    if status in (401, 403):
        raise ModelError(f"{root}: the server refuses the key ({status}); set {KEY_VARIABLE}")
    if status == 404:
        raise ModelError(f"{root}: no such path or model ({status}); mend `{section}.url` or `.model`")
    if status in (408, 425, 429) or status >= 500:
        asked = answer.headers.get("Retry-After", "")
        raise Busy(f"the server is busy or failing ({status})", float(asked) if asked.isdecimal() else 0.0)
    if not answer.is_success:
        raise Refused(f"refused by the server ({status})")


# A chat model behind an OpenAI-compatible HTTP API: many requests in flight, and a clear word on each fault.
#
# A fault of one request (refused, cut short, not JSON, no answer in time) is told with its reply; the
# others go on. A fault of the server ends the whole: found by its /health while requests are under way, or
# by a request that had no answer in time while no other had one either.


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
    max_concurrency: int = 64  # requests at once
    request_timeout_s: float = 120.0  # for one request
    max_attempts: int = 5  # at one request
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
            limits=httpx.Limits(
                max_connections=self.max_concurrency, max_keepalive_connections=self.max_concurrency
            ),
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
        self._slots = asyncio.Semaphore(endpoint.max_concurrency)
        self._last_answer = 0.0

    async def run(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        async with self._endpoint.client(self._endpoint.request_timeout_s) as client:
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
                fault = f"none in {self._endpoint.request_timeout_s:g} s"
            except (Busy, Refused) as error:
                fault = str(error)
            except httpx.HTTPError as error:
                fault = f"broken connection ({type(error).__name__})"
        return ChatReply(request.id, "", fault=fault)

    async def _post(self, client: httpx.AsyncClient, request: ChatRequest) -> Completion:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((Busy, httpx.TransportError)),
            wait=_Pause(),
            stop=stop_after_attempt(self._endpoint.max_attempts),
            reraise=True,
        )
        return await retrying(self._post_once, client, request)

    async def _post_once(self, client: httpx.AsyncClient, request: ChatRequest) -> Completion:
        """One attempt. A request that is not answered in time is not asked again; `TimeoutError`."""
        sent, limit = time.monotonic(), self._endpoint.request_timeout_s
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


# The chat endpoint that a section of params.yaml asks for: one at a URL, or a server of ours for a block.


# The rewriter behind an OpenAI-compatible server: vLLM's, or any other's.
#
# The same prompts, limits and per-row seeds are sent whenever a row is asked for; whether the same words come
# back is the server's affair, which is why finished micro-batches and DVC's cache keep them.


# The tuned rewriter as vLLM is told of it: its adapter beside the base, or merged into a folder of its own.
#
# On a GPU the adapter is served as it is. vLLM's LoRA layers are slow on a CPU, so there the weights are
# merged once into a cache folder, keyed by what they are made of.


# The rewriter that params.yaml asks for, for as long as a block runs: a server of ours ends with it.
