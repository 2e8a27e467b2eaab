"""Both towers as one call each that holds no Python lock while it runs.

A forward is some three hundred operations; between any two of them Python's lock has to be won back from the
event loop, which keeps it for up to its switch interval. A trace runs them all without it, so that requests
are read and answered beside the model. It is the same operations on the same weights: equal to the last bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from safeclip.encoders.load import Encoder

EXAMPLES = ["a dog near the river", "two apples"]


class Towers:
    """`texts`: token ids [B, L] -> [B, D]; `images`: pixels [B, 3, H, W] -> [B, D]; both l2-normalised."""

    def __init__(self, encoder: Encoder) -> None:
        size = encoder.image_size
        self.texts = _traced(_Tower(encoder.model.encode_text), encoder.tokenize(EXAMPLES))
        self.images = _traced(_Tower(encoder.model.encode_image), torch.zeros(2, 3, size, size))


class _Tower(nn.Module):
    def __init__(self, encode: Callable[..., Tensor]) -> None:
        super().__init__()
        self._encode = encode

    def forward(self, batch: Tensor) -> Tensor:
        return self._encode(batch, normalize=True)


@torch.no_grad()
def _traced(tower: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes that do not depend on the batch become constants
        return torch.jit.trace(tower, example, check_trace=False)
