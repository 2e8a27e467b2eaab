"""Text labels from a transformers sequence classifier, by name or folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from safeclip.errors import ModelError
from safeclip.synthesis.labels.batches import score_by_length


class ClassifierTextLabeller:
    """Probability of the unsafe classes: their sum under softmax; the highest one of a multi-label model."""

    def __init__(self, model: str, unsafe: Sequence[str], batch_size: int) -> None:
        self._tokenizer, self._model = _load(model)
        self._unsafe = _class_rows(model, self._model.config.id2label, unsafe)
        self._several = self._model.config.problem_type == "multi_label_classification"
        self._batch_size = batch_size

    @torch.no_grad()
    def score(self, items: Sequence[str]) -> np.ndarray:
        """Probability of unsafe, float32 [N]."""
        return score_by_length(items, self._batch_size, self._score)

    def _score(self, captions: list[str]) -> np.ndarray:
        batch = self._tokenizer(captions, return_tensors="pt", padding=True, truncation=True)
        return self._probability(self._model(**batch).logits).numpy()

    def _probability(self, logits: Tensor) -> Tensor:
        if self._several:
            return logits.float().sigmoid()[:, self._unsafe].amax(-1)
        return logits.float().softmax(-1)[:, self._unsafe].sum(-1).clamp(0.0, 1.0)


def _load(model: str) -> tuple[Any, Any]:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        network, info = AutoModelForSequenceClassification.from_pretrained(
            model, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        why = str(error).strip().splitlines()[0][:160].rstrip(".")
        raise ModelError(
            f"{model}: no text classifier to load ({why}); check the name or the folder"
        ) from None
    if info["missing_keys"]:  # transformers would go on with random weights
        missing = min(info["missing_keys"])
        raise ModelError(f"{model}: has no weights for {missing}; choose a model with a trained classifier")
    return tokenizer, network.eval()


def _class_rows(model: str, names: dict[int, str], unsafe: Sequence[str]) -> list[int]:
    """The outputs of the unsafe classes; case does not matter."""
    rows = {name.casefold(): row for row, name in names.items()}
    unknown = [name for name in unsafe if name.casefold() not in rows]
    if unknown or not unsafe:
        known = ", ".join(names.values())
        named = f"no class {unknown[0]!r}" if unknown else "no class named as unsafe"
        raise ModelError(f"{model}: {named}; its classes are {known}: name the unsafe ones in `unsafe`")
    return sorted(rows[name.casefold()] for name in unsafe)
