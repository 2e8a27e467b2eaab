"""The chat endpoint that a section of params.yaml asks for: one at a URL, or a server of ours for a block."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from safeclip.settings.vllm import Vllm
from safeclip.synthesis.chat_endpoint import ChatEndpoint
from safeclip.synthesis.chat_protocol import KEY_VARIABLE
from safeclip.synthesis.vllm_server import serve


@contextmanager
def open_endpoint(
    own: Vllm, model: Callable[[], Sequence[str]], *, dtype: str, threads: int, section: str
) -> Iterator[ChatEndpoint]:
    """The server at `own.url`, which must serve the model; without a URL one of ours, for this block.

    `model` gives the arguments that tell vLLM what to serve, `threads` are those of a server of ours.
    `ModelError` names the `section` to mend if it does not start, is not there or does not serve the model.
    """
    if own.url:
        key = os.environ.get(KEY_VARIABLE, "")
        limits = (own.in_flight, own.answer_seconds, own.attempts)
        endpoint = ChatEndpoint(own.url, own.model, key, *limits, section=section)
        endpoint.check()
        yield endpoint
    else:
        print(f"{section}: starting a server from {own.environment}", flush=True)
        with serve(model(), own, dtype=dtype, threads=threads, section=section) as endpoint:
            yield endpoint
