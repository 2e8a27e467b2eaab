"""The rewriter that params.yaml asks for, for as long as a block runs: a server of ours ends with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from safeclip.settings.rewrite_captions import RewriteCaptions
from safeclip.synthesis.engines import Rewriter, TransformersRewriter
from safeclip.synthesis.open_endpoint import open_endpoint
from safeclip.synthesis.served_model import served_model
from safeclip.synthesis.vllm_rewriter import VllmRewriter


@contextmanager
def open_rewriter(
    folder: str, adapter: Path, settings: RewriteCaptions, *, seed: int, threads: int
) -> Iterator[Callable[[], Rewriter]]:
    """How to make the rewriter of `settings.engine` in any worker; `threads` are those of a server of ours.

    `ModelError` if a server does not start, is not there or does not serve the model.
    """
    if settings.engine == "transformers":
        yield partial(TransformersRewriter, folder, adapter, settings, seed=seed)
        return
    with open_endpoint(
        settings.vllm, partial(served_model, folder, adapter, settings),
        dtype=settings.dtype, threads=threads, section="rewrite_captions.vllm",
    ) as endpoint:  # fmt: skip
        yield partial(VllmRewriter, endpoint, settings, seed=seed)
