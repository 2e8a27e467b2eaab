"""Attacks on the weights: how few steps of ordinary fine-tuning bring the unsafe pairs back together?"""

from __future__ import annotations

import copy
import hashlib

import numpy as np
import torch
from torch.nn import functional as F

from safeclip.encoders.load import Encoder
from safeclip.redteam.runner import Access, Victim, WeightAttack

LOGIT_SCALE = 100.0  # CLIP's, at which its training clamps the learned one


class RelearningAttack(WeightAttack):
    """Train all weights with CLIP's loss on unsafe pairs of the tuning half, `budget` steps of Adam.

    Safety training is often undone by a little further training (Qi et al., arXiv 2310.03693, on language
    models). A batch depends on the seed and the step alone.
    """

    access: Access = "white box"

    def __init__(self, steps: int, batch_size: int, learning_rate: float, seed: int) -> None:
        self.name, self.budget = f"relearning_{steps}", steps
        self._batch_size, self._learning_rate, self._seed = batch_size, learning_rate, seed

    def retrain(self, victim: Victim) -> Encoder:
        """Return the victim's encoder after the steps; the victim itself is not touched."""
        model = copy.deepcopy(victim.encoder.model)
        model.requires_grad_(True)
        optimizer = torch.optim.Adam(model.parameters(), lr=self._learning_rate)
        encoder = victim.encoder.with_model(model, "")
        scenes = victim.tuning_half().scenes
        pairs = np.flatnonzero(scenes.text_unsafe & scenes.image_unsafe)
        for step in range(self.budget if len(pairs) > 1 else 0):
            rows = np.random.default_rng([self._seed, step]).permutation(pairs)[: self._batch_size]
            optimizer.zero_grad()
            tokens = encoder.tokenize([scenes.captions_generated[row] for row in rows])
            pixels = encoder.preprocess([scenes.images_generated[row] for row in rows])
            # shape: [B, D] each
            texts = model.encode_text(tokens, normalize=True)
            images = model.encode_image(pixels, normalize=True)
            # symmetric InfoNCE over the batch, logits [B, B]
            logits, target = LOGIT_SCALE * texts @ images.T, torch.arange(len(rows))
            loss = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
            loss.backward()
            optimizer.step()
        model.requires_grad_(False)
        digest = hashlib.sha256(f"{victim.encoder.digest} {self.name}".encode()).hexdigest()
        return victim.encoder.with_model(model.eval(), digest)
