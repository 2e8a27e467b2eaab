"""The rewriter that params.yaml asks for, for as long as a block runs: a server of ours ends with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from safeclip.settings.rewrite_captions import RewriteCaptions
from safeclip.synthesis.chat_endpoint import ChatEndpoint
from safeclip.synthesis.chat_protocol import KEY_VARIABLE
from safeclip.synthesis.engines import Rewriter, TransformersRewriter
from safeclip.synthesis.served_model import served_model
from safeclip.synthesis.vllm_rewriter import VllmRewriter
from safeclip.synthesis.vllm_server import serve


@contextmanager
def open_rewriter(
    folder: str, adapter: Path, settings: RewriteCaptions, *, seed: int, threads: int
) -> Iterator[Callable[[], Rewriter]]:
    """How to make the rewriter of `settings.engine` in any worker; `threads` are those of a server of ours.

    `ModelError` if a server does not start, is not there or does not serve the model.
    """
    if settings.engine == "transformers":
        yield partial(TransformersRewriter, folder, adapter, settings, seed=seed)
    elif settings.vllm.url:
        endpoint = _at_url(settings)
        endpoint.check()
        yield partial(VllmRewriter, endpoint, settings, seed=seed)
    else:
        print(f"rewrite_captions: starting vLLM from {settings.vllm.environment}", flush=True)
        with serve(served_model(folder, adapter, settings), settings, threads=threads) as endpoint:
            yield partial(VllmRewriter, endpoint, settings, seed=seed)


def _at_url(settings: RewriteCaptions) -> ChatEndpoint:
    own = settings.vllm
    key = os.environ.get(KEY_VARIABLE, "")
    return ChatEndpoint(own.url, own.model, key, own.in_flight, own.answer_seconds, own.attempts)
