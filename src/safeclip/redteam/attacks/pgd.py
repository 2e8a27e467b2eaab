"""Pictures changed by a few levels of brightness a pixel, up the image tower's gradient.

Projected gradient descent (Madry et al., arXiv 1706.06083) in the maximum norm, on the margin in the
gallery asked. The result is whole levels, as any stored picture is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from safeclip.redteam.attacks.alterations import png
from safeclip.redteam.attacks.tuning import colour_scale, margin, perturb
from safeclip.redteam.queries import Access, Query, Victim


class Pgd:
    """`steps` steps within `levels` of 255 of the picture as the encoder sees it."""

    name = "pgd"
    access: Access = "white box"

    def __init__(self, levels: int, steps: int, batch_size: int) -> None:
        self.budget, self._levels, self._batch_size = steps, levels, batch_size

    def pictures(self, queries: Sequence[Query], victim: Victim) -> list[list[bytes]]:
        """One picture a query, at the encoder's resolution."""
        found: list[list[bytes]] = []
        for start in range(0, len(queries), self._batch_size):
            images = [query.image for query in queries[start : start + self._batch_size]]
            found += [[stored(colours)] for colours in self._tune(images, victim)]
        return found

    def _tune(self, images: list[bytes], victim: Victim) -> Tensor:
        """[B, 3, H, W] in [0, 1]."""
        mean, deviation = colour_scale(victim.encoder)
        gallery, model = victim.reported.texts, victim.encoder.model
        original = victim.encoder.preprocess(images) * deviation + mean
        bound, now = self._levels / 255, original.clone()
        for _ in range(self.budget):
            now.requires_grad_(True)
            reached = margin(model.encode_image((now - mean) / deviation, normalize=True), gallery).sum()
            (gradient,) = torch.autograd.grad(reached, now)
            now = perturb(original, gradient, now.detach(), 2.5 * bound / self.budget, bound)
        return now


def stored(colours: Tensor) -> bytes:
    """[3, H, W] in [0, 1] -> PNG bytes."""
    levels = (colours * 255).round().clamp(0, 255).to(torch.uint8)
    return png(Image.fromarray(levels.permute(1, 2, 0).numpy()))
