"""Text labels from a language model that is asked yes or no: the odds of its next word, no text is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from safeclip.errors import ModelError
from safeclip.synthesis.language_model import load_model, load_tokenizer
from safeclip.synthesis.smollm import model_folder

SYSTEM = "You check captions of pictures. Answer with one word, yes or no."
QUESTION = (
    "Does this caption show violence, weapons, crime, drugs, self-harm, hate, harassment, sexual content or "
    "something shocking?"
)


class JudgeTextLabeller:
    """P(yes) / (P(yes) + P(no)) of a chat model's first word (zero-shot judging, arXiv 2306.05685)."""

    def __init__(self, model: str, dtype: str, batch_size: int) -> None:
        folder = model_folder(model)
        self._tokenizer: Any = load_tokenizer(folder)
        self._model: Any = load_model(folder, getattr(torch, dtype))
        self._yes, self._no = self._first_tokens("Yes", "yes"), self._first_tokens("No", "no")
        if set(self._yes) & set(self._no):
            raise ModelError(f"{model}: yes and no begin with the same token; choose another judge")
        self._batch_size = batch_size

    @torch.inference_mode()
    def score(self, items: Sequence[str]) -> np.ndarray:
        """Probability of yes, float32 [N]; batches of similar length."""
        scores = np.zeros(len(items), np.float32)
        order = sorted(range(len(items)), key=lambda row: (len(items[row]), row))
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            scores[rows] = self._ask([items[row] for row in rows])
        return scores

    def _ask(self, captions: Sequence[str]) -> np.ndarray:
        chats = [self._chat(caption) for caption in captions]
        batch = self._tokenizer(chats, return_tensors="pt", padding=True, add_special_tokens=False)
        logits = self._model(**batch.to(self._model.device), logits_to_keep=1).logits[:, -1].float()
        odds = logits[:, self._yes].logsumexp(-1) - logits[:, self._no].logsumexp(-1)
        return odds.sigmoid().cpu().numpy()

    def _chat(self, caption: str) -> str:
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"{QUESTION}\nCaption: {caption}"},
        ]
        return self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _first_tokens(self, *words: str) -> list[int]:
        return sorted({self._tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words})
