"""Trace both towers, so that each is one call that holds no Python lock while it runs.

A forward pass is some three hundred operations. Between any two of them Python's lock has to be won back
from the event loop, which keeps it for up to its switch interval. A trace runs them all without it, so that
requests are read and answered beside the model. The packaged reference vectors check what it gives.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safeclip.encoders.fast_cpu import freeze_attention, read_last_tokens
from safeclip.encoders.load import Encoder

EXAMPLES = ["a dog near the river", "two apples"]


class Towers:
    """`texts`: token ids [B, L] -> [B, D]; `images`: pixels [B, 3, H, W] -> [B, D]; float32, l2-normalised.

    The encoder's own model is changed, to `dtype` as well: it serves from now on.
    """

    def __init__(self, encoder: Encoder, dtype: torch.dtype = torch.float32) -> None:
        model, size = encoder.model.to(dtype), encoder.image_size
        freeze_attention(model)
        read_last_tokens(model)
        self.texts = _trace(_Tower(model.encode_text, torch.long), encoder.tokenize(EXAMPLES))
        self.images = _trace(_Tower(model.encode_image, dtype), torch.zeros(2, 3, size, size))


class _Tower(nn.Module):
    def __init__(self, encode: Callable[[Tensor], Tensor], input_dtype: torch.dtype) -> None:
        super().__init__()
        self._encode, self._input_dtype = encode, input_dtype

    def forward(self, batch: Tensor) -> Tensor:
        return F.normalize(self._encode(batch.to(self._input_dtype)).float(), dim=-1)


@torch.no_grad()
def _trace(tower: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        # sizes that do not depend on the batch become constants, and torch warns of each
        warnings.simplefilter("ignore")
        return torch.jit.trace(tower, example, check_trace=False)
