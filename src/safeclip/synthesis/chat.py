"""A chat model behind an OpenAI-compatible API, asked for many answers at once.

The `openai` package speaks the protocol and repeats what may succeed the next time: 408, 409, 429, 5xx and
broken connections, after growing waits or the `Retry-After` that the server names. Added here:

- a bound on the requests under way;
- a fault of one request (refused, cut short, no answer) is returned with its reply, while the others go on;
- a server that is dead or hangs ends the whole with one line;
- a server that we started samples with the keyed noise of the engine in process (`vllm_sampler`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from openai import (
    APIConnectionError,
    APIStatusError,
    AsyncOpenAI,
    AuthenticationError,
    DefaultAsyncHttpxClient,
    NotFoundError,
    OpenAIError,
    PermissionDeniedError,
)
from pydantic import BaseModel, ValidationError

from safeclip.core.errors import ModelError

KEY_VARIABLE = "SAFECLIP_VLLM_API_KEY"
# a server that misses three looks at its health in a row, a second apart, is dead
HEALTH_EVERY, HEALTH_TIMEOUT, HEALTH_MISSES = 1.0, 4.0, 3
_AGAIN = "start it again and rerun, what is finished is kept"


@dataclass(frozen=True)
class ChatRequest:
    """A conversation to answer; `seed` makes the server's sampling the request's own."""

    id: str
    messages: tuple[dict[str, str], ...]
    seed: int


@dataclass(frozen=True)
class ChatReply:
    """An answer; not `complete` if the length limit cut it. `fault` says why there is nothing to use.

    `top_logprobs` are candidates for the first token with their log-probabilities, if they were asked for.
    """

    id: str
    text: str
    complete: bool = True
    fault: str = ""
    top_logprobs: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn and where it ends; `top_logprobs`: candidates of each token to return."""

    max_tokens: int
    temperature: float
    top_p: float
    stop: tuple[str, ...] = ("\n",)
    top_logprobs: int = 0


# The part of an answer that is read. The package's own models are not checked against what a server sends.


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


class _Usage(BaseModel):
    completion_tokens: int | None = None


class _Completion(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


@dataclass(frozen=True)
class ChatEndpoint:
    """The server at `url` (with or without /v1) and the name under which it serves the model."""

    url: str
    model: str
    key: str = field(default="", repr=False)
    max_concurrency: int = 64  # requests under way
    request_timeout_s: float = 120.0  # of a request with its repetitions
    max_attempts: int = 5  # at a request
    keyed: bool = False  # whether the server samples with our noise
    section: str = "rewrite_captions.vllm"  # of params.yaml, named in faults

    @property
    def root(self) -> str:
        """The URL without /v1."""
        return self.url.rstrip("/").removesuffix("/v1")

    def check(self) -> None:
        """Raise a `ModelError` unless the server is there, takes the key and serves the model."""

        async def served() -> list[str]:
            async with self._client() as client:
                once = client.with_options(max_retries=0, timeout=10.0)
                answer = await once.models.with_raw_response.list()
                return [model.id for model in _Models.model_validate_json(answer.content).data]

        try:
            names = asyncio.run(served())
        except (OpenAIError, ValidationError) as error:
            raise ModelError(
                f"{self.root}: no chat API there ({self._fault(error)}); start the server or correct "
                f"`{self.section}.url`"
            ) from None
        if self.model not in names:
            raise ModelError(
                f"{self.root}: serves {', '.join(names) or 'no model'}, not {self.model!r}; correct "
                f"`{self.section}.model`"
            )

    def ask(self, requests: Sequence[ChatRequest], sampling: Sampling) -> list[ChatReply]:
        """Return one reply for each request, in order.

        Raises:
            ModelError: the server is dead, hangs, refuses the key, or answers none of the requests.
        """
        replies = asyncio.run(self._ask(requests, sampling))
        if replies and all(reply.fault for reply in replies):
            raise ModelError(
                f"{self.root}: none of {len(replies)} requests got an answer ({replies[0].fault}); {_AGAIN}"
            )
        return replies

    async def _ask(self, requests: Sequence[ChatRequest], sampling: Sampling) -> list[ChatReply]:
        slots = asyncio.Semaphore(self.max_concurrency)
        last_answer = 0.0

        async def reply_to(client: AsyncOpenAI, request: ChatRequest) -> ChatReply:
            nonlocal last_answer
            async with slots:
                sent = time.monotonic()
                try:
                    async with asyncio.timeout(self.request_timeout_s):
                        completion = await self._complete(client, request, sampling)
                except TimeoutError:
                    # one slow answer costs its row; if nothing else was answered either, the server hangs
                    if last_answer < sent:
                        raise ModelError(
                            f"{self.root}: the server hangs, no answer to anything in "
                            f"{self.request_timeout_s:g} s; {_AGAIN}"
                        ) from None
                    return ChatReply(request.id, "", fault=f"none in {self.request_timeout_s:g} s")
                except (OpenAIError, ValidationError) as error:
                    return ChatReply(request.id, "", fault=self._fault(error))
                last_answer = time.monotonic()
                return read_reply(request, completion, sampling)

        async with self._client() as client:
            replies = asyncio.gather(*(reply_to(client, request) for request in requests))
            watch = asyncio.create_task(self._watch())
            try:
                both: tuple[asyncio.Future[Any], ...] = (replies, watch)
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if not replies.done():
                    raise ModelError(f"{self.root}: {watch.result()}; {_AGAIN}")
                return replies.result()
            finally:
                replies.cancel()
                watch.cancel()
                await asyncio.gather(replies, watch, return_exceptions=True)

    def _client(self) -> AsyncOpenAI:
        return AsyncOpenAI(
            base_url=f"{self.root}/v1",
            api_key=self.key or "none",  # the package insists on one
            timeout=self.request_timeout_s,
            max_retries=self.max_attempts - 1,
            http_client=DefaultAsyncHttpxClient(trust_env=self._uses_proxies),
        )

    @property
    def _uses_proxies(self) -> bool:
        """Whether the environment's proxies apply: not for servers on this machine."""
        return httpx.URL(self.root).host not in ("127.0.0.1", "localhost", "::1")

    async def _complete(self, client: AsyncOpenAI, request: ChatRequest, sampling: Sampling) -> _Completion:
        """Return the answer to one request; `ValidationError` if no attempt brings one (a proxy's page)."""
        body = request_body(self.model, request, sampling, keyed=self.keyed)
        for _ in range(self.max_attempts - 1):
            answer = await client.chat.completions.with_raw_response.create(**body)
            try:
                return _Completion.model_validate_json(answer.content)
            except ValidationError:
                continue
        answer = await client.chat.completions.with_raw_response.create(**body)
        return _Completion.model_validate_json(answer.content)

    async def _watch(self) -> str:
        """Return what is wrong once the server has missed several looks at its health in a row."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        misses, fault = 0, ""
        async with httpx.AsyncClient(
            headers=headers, timeout=HEALTH_TIMEOUT, trust_env=self._uses_proxies
        ) as client:
            while misses < HEALTH_MISSES:
                await asyncio.sleep(HEALTH_EVERY)
                try:
                    status = (await client.get(f"{self.root}/health")).status_code
                    fault = f"the server says that it is ill ({status})" if status >= 500 else ""
                except httpx.HTTPError as error:
                    fault = f"the server does not answer ({type(error).__name__})"
                misses = misses + 1 if fault else 0
        return fault

    def _fault(self, error: OpenAIError | ValidationError) -> str:
        """Return what is wrong with one request; `ModelError` for what every request will meet."""
        if isinstance(error, AuthenticationError | PermissionDeniedError):
            raise ModelError(
                f"{self.root}: the server refuses the key ({error.status_code}); set {KEY_VARIABLE}"
            ) from None
        if isinstance(error, NotFoundError):
            raise ModelError(
                f"{self.root}: no such path or model (404); correct `{self.section}.url` or `.model`"
            ) from None
        if isinstance(error, APIStatusError):
            status = error.status_code
            if status in (408, 409, 429) or status >= 500:
                return f"the server is busy or failing ({status})"
            return f"refused by the server ({status})"
        if isinstance(error, APIConnectionError):
            return f"broken connection ({type(error.__cause__ or error).__name__})"
        return "not an answer of a chat API"


def request_body(model: str, request: ChatRequest, sampling: Sampling, *, keyed: bool) -> dict[str, Any]:
    """Return the arguments of a request for one answer; `keyed` if the server has our sampler."""
    body: dict[str, Any] = {
        "model": model,
        "messages": list(request.messages),
        "max_tokens": sampling.max_tokens,
        "stop": list(sampling.stop),
    }
    nucleus = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if keyed and sampling.temperature:
        # our sampler leaves one token to choose from, which greedy decoding takes
        body |= {"temperature": 0.0, "extra_body": {"vllm_xargs": {"row_key": request.seed, **nucleus}}}
    else:
        body |= {"seed": request.seed, **nucleus}
    if sampling.top_logprobs:
        body |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
    return body


def read_reply(request: ChatRequest, completion: _Completion, sampling: Sampling) -> ChatReply:
    """Return the reply that a completion holds.

    The caller's own limit may cut an answer (`complete` is False then); the server's, below it, is a fault.
    """
    if not completion.choices:
        return ChatReply(request.id, "", fault="an answer without a choice")
    choice, usage = completion.choices[0], completion.usage
    text = choice.message.content or ""
    if choice.finish_reason == "content_filter" or choice.message.refusal:
        return ChatReply(request.id, "", fault="refused by the server")
    if sampling.top_logprobs:
        positions = (choice.logprobs.content if choice.logprobs else None) or [_Position()]
        first = tuple((candidate.token, candidate.logprob) for candidate in positions[0].top_logprobs)
        fault = "" if first else "no probabilities of its first word"
        return ChatReply(request.id, text, top_logprobs=first, fault=fault)
    if not text:
        return ChatReply(request.id, "", fault="refused by the server")
    was_cut = choice.finish_reason == "length"
    length = usage.completion_tokens if usage else None
    if was_cut and length is not None and length < sampling.max_tokens:
        return ChatReply(request.id, "", fault="cut short by the server")
    return ChatReply(request.id, text, complete=not was_cut)
