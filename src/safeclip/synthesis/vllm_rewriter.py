"""The rewriter behind an OpenAI-compatible server: vLLM's, or any other's.

The same prompts, limits and per-row seeds are sent whenever a row is asked for; whether the same words come
back is the server's affair, which is why finished micro-batches and DVC's cache keep them.
"""

from __future__ import annotations

from collections.abc import Sequence

from safeclip.settings.rewrite_captions import RewriteCaptions
from safeclip.synthesis.chat_endpoint import ChatEndpoint, ChatRequest, Sampling
from safeclip.synthesis.engines import RewriteAnswer, RewriteRequest
from safeclip.synthesis.keyed import row_key
from safeclip.synthesis.prompts import prompt_messages


class VllmRewriter:
    """Asks a chat endpoint for every row of a micro-batch at once, up to its bound."""

    def __init__(self, endpoint: ChatEndpoint, settings: RewriteCaptions, *, seed: int) -> None:
        self.name = "vllm"
        self._endpoint = endpoint
        self._seed = seed
        self._sampling = Sampling(settings.max_new_tokens, settings.temperature, settings.top_p)

    def rewrite(self, requests: Sequence[RewriteRequest]) -> list[RewriteAnswer]:
        """Answers in the order of the requests; `ModelError` if the server is dead or hangs."""
        asked = [
            ChatRequest(
                request.id,
                tuple(prompt_messages(request.caption, request.concept)),
                row_key(self._seed, request.id, "rewrite"),
            )
            for request in requests
        ]
        return [
            RewriteAnswer(reply.id, reply.text, reply.complete, reply.fault)
            for reply in self._endpoint.ask(asked, self._sampling)
        ]
