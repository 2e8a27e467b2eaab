"""What runs the judge: transformers in this process, or a chat endpoint as `rewrite_captions` uses them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from safeclip.errors import ModelError
from safeclip.settings.label_safety import Judge
from safeclip.synthesis.chat_endpoint import ChatEndpoint
from safeclip.synthesis.chat_protocol import ChatReply, ChatRequest, Sampling
from safeclip.synthesis.labels.batches import score_by_length
from safeclip.synthesis.labels.judge import JudgeEngine, conversation
from safeclip.synthesis.language_model import load_model, load_tokenizer
from safeclip.synthesis.open_endpoint import open_endpoint
from safeclip.synthesis.smollm import model_folder

FIRST_WORD = Sampling(max_tokens=1, temperature=0.0, top_p=1.0, stop=(), likeliest=20)
"""Twenty is the most that chat APIs tell."""
AT_ONCE = 512
"""Captions handed to a server together."""
_SECTION = "label_safety.text.vllm"


@contextmanager
def open_judge(own: Judge, *, threads: int) -> Iterator[JudgeEngine]:
    """The engine of these settings; a server of ours has `threads` without a GPU and ends with the block.

    `ModelError` if the model does not load, or a server does not start, is not there or does not serve it.
    """
    if own.engine == "transformers":
        yield TransformersJudge(own.model, own.dtype, own.batch_size)
        return
    serving = partial(_served, own)
    with open_endpoint(own.vllm, serving, dtype=own.dtype, threads=threads, section=_SECTION) as endpoint:
        yield ServedJudge(endpoint)


def _served(own: Judge) -> list[str]:
    return ["--model", model_folder(own.model), "--served-model-name", own.vllm.model]


class TransformersJudge:
    """The language model in this process, in batches of captions of similar length."""

    def __init__(self, model: str, dtype: str, batch_size: int) -> None:
        folder = model_folder(model)
        self._tokenizer: Any = load_tokenizer(folder)
        self._model: Any = load_model(folder, getattr(torch, dtype))
        self._yes, self._no = self._first_tokens("Yes", "yes"), self._first_tokens("No", "no")
        if set(self._yes) & set(self._no):
            raise ModelError(f"{model}: yes and no begin with the same token; choose another judge")
        self._batch_size = batch_size

    @torch.inference_mode()
    def says_yes(self, captions: Sequence[str]) -> np.ndarray:
        """Probability of yes, float32 [N]; no text is made."""
        return score_by_length(captions, self._batch_size, self._ask)

    def _ask(self, captions: Sequence[str]) -> np.ndarray:
        chats = [
            self._tokenizer.apply_chat_template(
                conversation(caption), tokenize=False, add_generation_prompt=True
            )
            for caption in captions
        ]
        batch = self._tokenizer(chats, return_tensors="pt", padding=True, add_special_tokens=False)
        logits = self._model(**batch.to(self._model.device), logits_to_keep=1).logits[:, -1].float()
        odds = logits[:, self._yes].logsumexp(-1) - logits[:, self._no].logsumexp(-1)
        return odds.sigmoid().cpu().numpy()

    def _first_tokens(self, *words: str) -> list[int]:
        return sorted({self._tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words})


class ServedJudge:
    """A chat endpoint that tells how likely the first words of its answer were."""

    def __init__(self, endpoint: ChatEndpoint) -> None:
        self._endpoint = endpoint

    def says_yes(self, captions: Sequence[str]) -> np.ndarray:
        """Probability of yes, float32 [N], NaN where a request failed.

        `ModelError` if the server is dead, hangs, or does not say how likely its words were.
        """
        asked = [
            ChatRequest(f"{row}", tuple(conversation(caption)), seed=0)
            for row, caption in enumerate(captions)
        ]
        replies: list[ChatReply] = []
        for start in tqdm(range(0, len(asked), AT_ONCE), desc="judge", mininterval=10, disable=None):
            replies += self._endpoint.ask(asked[start : start + AT_ONCE], FIRST_WORD)
        return np.array([_yes(reply) for reply in replies], np.float32)


def _yes(reply: ChatReply) -> float:
    """P(yes) / (P(yes) + P(no)) over the words told; one that is not among them is as likely as the least."""
    if reply.fault:
        return math.nan
    least = math.exp(min(logprob for _, logprob in reply.likeliest))
    yes, no = (_mass(reply, word) or least for word in ("yes", "no"))
    return yes / (yes + no)


def _mass(reply: ChatReply, word: str) -> float:
    """Probability of a word, whatever its case and the blank before it."""
    return sum(math.exp(logprob) for token, logprob in reply.likeliest if token.strip().lower() == word)
