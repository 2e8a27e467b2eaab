"""Both towers as one call each that holds no Python lock while it runs, and does nothing that nobody reads.

A forward is some three hundred operations; between any two of them Python's lock has to be won back from the
event loop, which keeps it for up to its switch interval. A trace runs them all without it, so that requests
are read and answered beside the model. Two things are cut from it, both exact:

- `nn.MultiheadAttention` moves the batch behind the sequence before it projects, and so multiplies row by
  row where one product would do. `_Attention` is the same sums in the order the rows lie in memory.
- An embedding is read at one position, the class token or the end token. `_LastBlock` takes the query, the
  output projection and the MLP of that position alone: most of a twelfth of ViT-B/32.

The packaged reference vectors watch over both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer, text_global_pool
from torch import Tensor, nn
from torch.nn import functional as F

from safeclip.encoders.load import Encoder
from safeclip.encoders.text_tower import CutTextCLIP

EXAMPLES = ["a dog near the river", "two apples"]


class Towers:
    """`texts`: token ids [B, L] -> [B, D]; `images`: pixels [B, 3, H, W] -> [B, D]; float32, l2-normalised.

    The encoder's own model is changed, to `dtype` as well: it serves from now on.
    """

    def __init__(self, encoder: Encoder, dtype: torch.dtype = torch.float32) -> None:
        model, size = encoder.model.to(dtype), encoder.image_size
        for block in model.modules():
            if type(block) is ResidualAttentionBlock and block.attn.batch_first:
                block.attn = _Attention(block.attn)
        texts, images = _Tower(model.encode_text, torch.long), _Tower(model.encode_image, dtype)
        if isinstance(model, CutTextCLIP):
            texts.read_only_at(_end_token(model), model.transformer.resblocks[-1])
        if _pools_class_token(model.visual):
            images.read_only_at(_class_token, model.visual.transformer.resblocks[-1])
        self.texts = _traced(texts, encoder.tokenize(EXAMPLES))
        self.images = _traced(images, torch.zeros(2, 3, size, size))


class _Tower(nn.Module):
    def __init__(self, encode: Callable[[Tensor], Tensor], takes: torch.dtype) -> None:
        super().__init__()
        self._encode, self._takes = encode, takes
        self._last: nn.Module | None = None

    def read_only_at(self, place: Callable[[Tensor], Tensor], last: nn.Module) -> None:
        """Of what the `last` block gives, nothing but `place(batch)`, one position a row, is read."""
        if type(last) is ResidualAttentionBlock:
            last.__class__ = _LastBlock
            self._place, self._last = place, last

    def forward(self, batch: Tensor) -> Tensor:
        if self._last is not None:
            self._last.place = self._place(batch)
        return F.normalize(self._encode(batch.to(self._takes)).float(), dim=-1)


def _end_token(model: CutTextCLIP) -> Callable[[Tensor], Tensor]:
    """Token ids [B, L] -> the position in each row where the model pools, [B]."""

    def place(tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1]).expand(tokens.shape)
        return text_global_pool(positions, tokens, model.text_pool_type, model.text_eos_id)

    return place


def _pools_class_token(visual: nn.Module) -> bool:
    return isinstance(visual, VisionTransformer) and visual.attn_pool is None and visual.pool_type == "tok"


def _class_token(pixels: Tensor) -> Tensor:
    return torch.zeros(pixels.shape[0], dtype=torch.long)


class _LastBlock(ResidualAttentionBlock):
    """A block whose output holds the row at `place` [B] in every position, for whichever is read."""

    place: Tensor

    def forward(
        self,
        q_x: Tensor,
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        # shape: q_x [B, L, W]; read, x [B, 1, W]; mask [B, 1, 1, L]
        at = self.place[:, None, None].expand(-1, 1, q_x.shape[-1])
        whole = self.ln_1(q_x)
        mask = None if attn_mask is None else attn_mask[self.place][:, None, None]
        x = q_x.gather(1, at)
        x = x + self.ls_1(self.attention(whole.gather(1, at), whole, whole, mask))
        x = x + self.ls_2(self.mlp(self.ln_2(x)))
        return x.expand(q_x.shape)


class _Attention(nn.Module):
    """Takes the place of a batch-first `nn.MultiheadAttention` whose key and value are one tensor."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        width = attention.embed_dim
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        self.query = weight[:width], bias[:width]
        self.key_value = weight[width:], bias[width:]
        self.out_proj, self.heads = attention.out_proj, attention.num_heads

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool, attn_mask: Tensor | None
    ) -> tuple[Tensor, None]:
        # shape: [B, L, W] each, then [B, heads, L, W / heads]
        parts = F.linear(query, *self.query), *F.linear(key, *self.key_value).chunk(2, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None


@torch.no_grad()
def _traced(tower: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes that do not depend on the batch become constants
        return torch.jit.trace(tower, example, check_trace=False)
