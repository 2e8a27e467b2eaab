"""How few steps of ordinary fine-tuning bring the unsafe pairs back together.

Safety training is often undone by a little further training (Qi et al., arXiv 2310.03693, on language
models). Whoever has the weights and the unsafe pairs of the tuning half trains all weights with CLIP's loss.
"""

from __future__ import annotations

import copy
import hashlib

import numpy as np
import torch
from torch.nn import functional as F

from safeclip.encoders.load import Encoder
from safeclip.evaluation.scenes import Scenes
from safeclip.redteam.attacks.tuning import tuning_half
from safeclip.redteam.queries import Access, Victim

SCALE = 100.0


class Relearning:
    """`budget` steps of Adam on batches of unsafe pairs, drawn from the seed and the step alone."""

    access: Access = "white box"

    def __init__(self, steps: int, batch_size: int, learning_rate: float, seed: int) -> None:
        self.name, self.budget = f"relearning_{steps}", steps
        self._batch_size, self._learning_rate, self._seed = batch_size, learning_rate, seed

    def retrained(self, victim: Victim) -> Encoder:
        """The victim's encoder after the steps; the victim itself is not touched."""
        model = copy.deepcopy(victim.encoder.model)
        model.requires_grad_(True)
        optimizer = torch.optim.Adam(model.parameters(), lr=self._learning_rate)
        scenes = tuning_half(victim).scenes
        pairs = np.flatnonzero(scenes.text_unsafe & scenes.image_unsafe)
        for step in range(self.budget if len(pairs) > 1 else 0):
            rows = np.random.default_rng([self._seed, step]).permutation(pairs)[: self._batch_size]
            optimizer.zero_grad()
            _loss(victim.encoder.with_model(model, ""), scenes, rows).backward()
            optimizer.step()
        model.requires_grad_(False)
        digest = hashlib.sha256(f"{victim.encoder.digest} {self.name}".encode()).hexdigest()
        return victim.encoder.with_model(model.eval(), digest)


def _loss(encoder: Encoder, scenes: Scenes, rows: np.ndarray) -> torch.Tensor:
    """Symmetric InfoNCE of the unsafe captions and pictures of `rows`."""
    tokens = encoder.tokenize([scenes.captions_generated[row] for row in rows])
    pixels = encoder.preprocess([scenes.images_generated[row] for row in rows])
    texts = encoder.model.encode_text(tokens, normalize=True)
    images = encoder.model.encode_image(pixels, normalize=True)
    logits, target = SCALE * texts @ images.T, torch.arange(len(rows))
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
