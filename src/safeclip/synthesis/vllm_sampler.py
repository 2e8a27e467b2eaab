"""The rewriter's keyed sampling inside a vLLM server of ours (`--logits-processors`).

vLLM's own top-p sorts the vocabulary of every row at every step, which on a CPU takes longer than the model,
and a seeded request whose prompt is cut into chunks ends its CPU build. Requests that bring a `row_key` are
sampled here, with the noise of the engine in process, and then decoded greedily. Loaded by vLLM's
environment, never by ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from safeclip.synthesis.keyed_sampling import keyed_draw, only


@dataclass(frozen=True)
class Draw:
    """How one request is sampled; vLLM binds the growing list of its answer's tokens as the argument."""

    row_key: int
    temperature: float
    top_p: float

    def __call__(self, answer: list[int], logits: torch.Tensor) -> torch.Tensor:
        """Logits [V] -> [V] with all but the drawn token at -inf."""
        key, scores = np.array([self.row_key], dtype=np.uint64), logits[None]
        return only(keyed_draw(scores, key, len(answer), self.temperature, self.top_p), scores)[0]


class KeyedSampling(AdapterLogitsProcessor):  # type: ignore[misc]  # vLLM is not in this environment
    """Applies each request's `Draw`."""

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: Any) -> Draw | None:
        """The draw that a request's `vllm_xargs` ask for, if they do."""
        asked = params.extra_args or {}
        if "row_key" not in asked:
            return None
        return Draw(int(asked["row_key"]), float(asked["temperature"]), float(asked["top_p"]))
