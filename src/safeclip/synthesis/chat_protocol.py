"""What goes over the wire to an OpenAI-compatible chat API, and what each of its answers means.

Only fields that every such server knows are sent, and only those needed are read. A server of ours samples
with the keyed noise of the engine in process instead (vllm_sampler).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError

from safeclip.errors import ModelError

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

    `likeliest` are first tokens with their log-probabilities, as many as `Sampling.likeliest` asked for.
    """

    id: str
    text: str
    complete: bool = True
    fault: str = ""
    likeliest: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn and where it ends."""

    max_tokens: int
    temperature: float
    top_p: float
    stop: tuple[str, ...] = ("\n",)
    likeliest: int = 0  # tokens that could come first, told with their probabilities


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
    def likeliest(self) -> tuple[tuple[str, float], ...]:
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
    told = {"logprobs": True, "top_logprobs": sampling.likeliest} if sampling.likeliest else {}
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
    if sampling.likeliest:
        fault = "" if choice.likeliest else "no probabilities of its first word"
        return ChatReply(request.id, said, likeliest=choice.likeliest, fault=fault)
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
