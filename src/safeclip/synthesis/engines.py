"""Engines that rewrite captions. A rewriter turns a list of requests into texts, in the same order.

The engine in process runs transformers on one micro-batch at a time. What it answers depends on the
micro-batch (floating point does) and on noise keyed by (project seed, row id, position), and on nothing else:
not on what ran before, not on the process. Another engine is one more class with `name` and `rewrite`:
`vllm_server` has one that asks a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from safeclip.settings import Drawing
from safeclip.synthesis.language_model import load_rewriter, load_tokenizer
from safeclip.synthesis.row_noise import keyed_draw, only, row_key

# Short on purpose: every token of the prompt is paid for once a row. A system message of our own keeps the
# chat template from adding its default one, which is three times as long.
SYSTEM = "Rewrite the caption with the concept."


def prompt_messages(caption: str, concept: str) -> list[dict[str, str]]:
    """Return the chat that asks for an unsafe version of `caption` that shows `concept`."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"{concept}: {caption}"},
    ]


@dataclass(frozen=True)
class RewriteRequest:
    """Ask for an unsafe version of `caption` that shows `concept`."""

    id: str
    caption: str
    concept: str
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class RewriteAnswer:
    """The model's answer as it is; not `complete` if the length limit cut it.

    `fault` says why a server gave nothing to use (an engine in process always answers).
    """

    id: str
    text: str
    complete: bool = True
    fault: str = ""


class Rewriter(Protocol):
    """One micro-batch in, its answers out, in order."""

    name: str

    def rewrite(self, requests: Sequence[RewriteRequest]) -> list[RewriteAnswer]: ...


class TransformersRewriter:
    """The tuned language model in this process; batched, padded on the left, sampled with keyed noise."""

    def __init__(self, folder: str, adapter: Path, settings: Drawing, *, seed: int) -> None:
        self.name = "transformers"
        self._settings = settings
        self._seed = seed
        self._tokenizer = load_tokenizer(folder)
        self._model: Any = load_rewriter(folder, adapter, getattr(torch, settings.dtype))
        ends = [*_tokens_with_newline(self._tokenizer), self._tokenizer.eos_token_id]
        self._ends = torch.tensor(ends, device=self._model.device)

    @torch.inference_mode()
    def rewrite(self, requests: Sequence[RewriteRequest]) -> list[RewriteAnswer]:
        """Answers to one micro-batch; each ends with its first line, its end token or at the length limit."""
        prompts = [
            self._tokenizer.apply_chat_template(
                prompt_messages(request.caption, request.concept), tokenize=False, add_generation_prompt=True
            )
            for request in requests
        ]
        batch = self._tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        width = batch["input_ids"].shape[1]
        sampler = KeyedSampler(
            [row_key(self._seed, request.id, "rewrite") for request in requests],
            width, self._settings.temperature, self._settings.top_p,
        )  # fmt: skip
        tokens = self._model.generate(
            **batch.to(self._model.device),
            do_sample=False,  # the sampler leaves one token a row to choose from
            max_new_tokens=self._settings.max_new_tokens,
            pad_token_id=self._tokenizer.pad_token_id,
            logits_processor=LogitsProcessorList([sampler]),
            stopping_criteria=StoppingCriteriaList([_LineEnd(self._ends)]),
        )
        # shape: [B, new tokens]
        answers = tokens[:, width:]
        texts = self._tokenizer.batch_decode(answers, skip_special_tokens=True)
        complete = torch.isin(answers, self._ends).any(-1).tolist()
        return [
            RewriteAnswer(request.id, text, done)
            for request, text, done in zip(requests, texts, complete, strict=True)
        ]


class KeyedSampler(LogitsProcessor):
    """Leaves greedy decoding the token that keyed sampling draws for each row."""

    def __init__(self, keys: Sequence[int], prompt_width: int, temperature: float, top_p: float) -> None:
        self._keys = np.array(keys, dtype=np.uint64)
        self._prompt_width = prompt_width
        self._temperature = temperature
        self._top_p = top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """[B, length] tokens so far, [B, V] logits -> [B, V] with all but the drawn token at -inf."""
        position = input_ids.shape[1] - self._prompt_width
        return only(keyed_draw(scores, self._keys, position, self._temperature, self._top_p), scores)


class _LineEnd(StoppingCriteria):
    """A caption is one line: stop a row at the first token that holds a line's end."""

    def __init__(self, ends: torch.Tensor) -> None:
        self._ends = ends

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        return torch.isin(input_ids[:, -1], self._ends)


def _tokens_with_newline(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return [token for token, text in enumerate(texts) if "\n" in text]
