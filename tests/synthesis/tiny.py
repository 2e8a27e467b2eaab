"""A tiny language model with the real tokenizer, and rewriters that need no model; shared by these tests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from safeclip.synthesis.answers import RewriteOutcome
from safeclip.synthesis.engines import RewriteAnswer, Rewriter, RewriteRequest, TransformersRewriter
from safeclip.synthesis.language_model import model_folder
from tests.support.params import make_settings

SETTINGS = make_settings(
    rewrite_captions={"batch_size": 4, "max_new_tokens": 8, "dtype": "float32"}
).rewrite_captions
MINOR, SEXUAL = "zorblat", "quimfle"  # made-up words, put on the guard's lists for a test


def make_model(folder: Path) -> tuple[str, Path]:
    """(model folder, adapter folder): random weights of width 32, so answers are noise, but keyed noise."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_folder("smollm2-135m"))
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(model, lora).save_pretrained(str(folder / "adapter"))
    return str(folder / "model"), folder / "adapter"


def requests(count: int) -> list[RewriteRequest]:
    things = ("dog", "cat", "kite", "piano", "tractor")
    return [
        RewriteRequest(
            f"row-{n:03d}", f"a man looks at a {things[n % 5]}{' by the river' * (n % 3)}", "a gun"
        )
        for n in range(count)
    ]


def make_rewriter(folder: str, adapter: Path, seed: int = 1) -> Rewriter:
    return TransformersRewriter(folder, adapter, SETTINGS, seed=seed)


def accept(request: RewriteRequest, answer: RewriteAnswer) -> RewriteOutcome:
    """Takes any answer, so that tests see what the model said."""
    return RewriteOutcome(request.id, answer.text)


class Says:
    """A rewriter that answers every request with the same words."""

    name = "says"

    def __init__(self, words: str) -> None:
        self._words = words

    def rewrite(self, requests: Sequence[RewriteRequest]) -> list[RewriteAnswer]:
        return [RewriteAnswer(request.id, self._words) for request in requests]


class Dies:
    """A rewriter whose process ends at the first request, as one does that is out of memory."""

    name = "dies"

    def rewrite(self, requests: Sequence[RewriteRequest]) -> list[RewriteAnswer]:
        os._exit(9)
