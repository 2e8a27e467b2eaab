"""Image labels from a frozen CLIP between safe and unsafe prompts (Q16, arXiv 2202.06675).

The prompts are written, or learnt from labelled pictures as in the paper: two embeddings, started at the
written ones, fitted with cross-entropy while the encoder stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from safeclip.encoders.embed import embed_images, embed_texts
from safeclip.encoders.load import Encoder
from safeclip.errors import DataError

FOLDS = 5
_STEPS, _LEARNING_RATE, _DECAY = 200, 0.01, 0.1


class PromptImageLabeller:
    """sigmoid(scale * (best unsafe cosine - best safe cosine)), scale being the encoder's own."""

    def __init__(self, encoder: Encoder, *, unsafe: Tensor, safe: Tensor) -> None:
        """`unsafe`, `safe`: embeddings [prompts, D], l2-normalised."""
        self._encoder, self._unsafe, self._safe = encoder, unsafe, safe
        self._scale = float(encoder.model.logit_scale.detach().exp())

    def score(self, items: Sequence[bytes]) -> np.ndarray:
        """Probability of unsafe, float32 [N]; `DataError` names the index of a broken picture."""
        return self._score_vectors(embed_images(self._encoder, items)).numpy()

    def _score_vectors(self, shown: Tensor) -> Tensor:
        margin = (shown @ self._unsafe.T).amax(-1) - (shown @ self._safe.T).amax(-1)
        return torch.sigmoid(self._scale * margin)

    def learn(self, items: Sequence[bytes], unsafe: Sequence[bool]) -> tuple[PromptImageLabeller, np.ndarray]:
        """The labeller with learnt prompts, and each item's score by prompts learnt without it (5 folds)."""
        if min(sum(unsafe), len(unsafe) - sum(unsafe)) < FOLDS:
            raise DataError(
                f"prompts: needs {FOLDS} safe and {FOLDS} unsafe pictures to learn from; add some"
            )
        shown, true = embed_images(self._encoder, items), torch.tensor(unsafe)
        held_out = torch.zeros(len(items))
        turn = torch.zeros(len(items), dtype=torch.long)
        for kind in (False, True):  # both kinds in every fold
            rows = (true == kind).nonzero().flatten()
            turn[rows] = torch.arange(len(rows)) % FOLDS
        for fold in range(FOLDS):
            without = self._fitted(shown[turn != fold], true[turn != fold])
            held_out[turn == fold] = without._score_vectors(shown[turn == fold])
        return self._fitted(shown, true), held_out.numpy()

    def _fitted(self, shown: Tensor, unsafe: Tensor) -> PromptImageLabeller:
        start = torch.stack([self._safe.mean(0), self._unsafe.mean(0)])
        prompts = start.clone().requires_grad_()
        optimizer = torch.optim.AdamW([prompts], lr=_LEARNING_RATE, weight_decay=_DECAY)
        for _ in range(_STEPS):
            logits = self._scale * shown @ F.normalize(prompts, dim=-1).T
            loss = F.cross_entropy(logits, unsafe.long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        safe, learnt = F.normalize(prompts.detach(), dim=-1)
        return PromptImageLabeller(self._encoder, unsafe=learnt[None], safe=safe[None])


def written_prompts(encoder: Encoder, unsafe: Sequence[str], safe: Sequence[str]) -> PromptImageLabeller:
    """A labeller with prompts as texts."""
    return PromptImageLabeller(
        encoder, unsafe=embed_texts(encoder, list(unsafe)), safe=embed_texts(encoder, list(safe))
    )
