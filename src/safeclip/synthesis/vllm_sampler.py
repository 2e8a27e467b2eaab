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
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from safeclip.synthesis.row_noise import keyed_draw, only


@dataclass(frozen=True)
class Draw:
    """How one request is sampled; `answer` is its list of tokens so far, which vLLM lengthens."""

    row_key: int
    temperature: float
    top_p: float
    answer: list[int]


class KeyedSampling(LogitsProcessor):  # type: ignore[misc]  # vLLM is not in this environment
    """Leaves each request that brings a key the token that was drawn for it, all rows at once."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._draws: dict[int, Draw] = {}  # by row of the batch

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        process_dict_updates(self._draws, batch_update, _asked)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [B, V]; rows of other requests stay as they are."""
        if self._draws:
            rows, draws = zip(*sorted(self._draws.items()), strict=True)
            scores = logits[list(rows)]
            how: Any = torch.tensor([[draw.temperature, draw.top_p] for draw in draws], device=logits.device)
            tokens = keyed_draw(
                scores,
                np.array([draw.row_key for draw in draws], dtype=np.uint64),
                np.array([len(draw.answer) for draw in draws], dtype=np.uint64),
                how[:, :1],
                how[:, 1:],
            )
            logits[list(rows)] = only(tokens, scores)
        return logits


def _asked(params: Any, prompt: list[int] | None, answer: list[int]) -> Draw | None:
    """The draw that a request's `vllm_xargs` ask for, if they do."""
    asked = params.extra_args or {}
    if "row_key" not in asked:
        return None
    return Draw(int(asked["row_key"]), float(asked["temperature"]), float(asked["top_p"]), answer)
