"""Faster ways to the same embeddings and gradients, for training and serving on a CPU. Optional.

Nothing here changes a result by more than rounding. Without this file and the two calls of it (`speed_up` in
training/step.py, `freeze_attention` and `read_last_tokens` in serving/towers.py) everything runs on, slower.
What each part buys:

- `JoinedLowRankLinear`: 10 to 40 % of the time of a layer whose output is much wider than its input.
- `ProductAttention`: in bf16, torch's fused kernel took ten times as long to go back as its products do.
- `LastLayer`: a fifth of the work of a tower of 4 layers, a fourteenth of one of 12; on a GPU too.
- `FrozenAttention`: one product over the batch where `nn.MultiheadAttention` multiplies row by row.

`benchmarks/training.py` measures the training step as a whole, `benchmarks/serving.py` the service.

Shapes: B batch, L tokens, D width, d width of a head, N rows of a product, I inputs, O outputs, r rank.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.model import CLIP
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from safeclip.encoders.lora_layers import LoraAttention, LoraLayer, LowRankLinear, attend
from safeclip.encoders.text_tower import CutTextCLIP


def speed_up(model: CLIP) -> None:
    """Make an adapted model's forward and backward passes faster, in place, on the device where it is."""
    if model.logit_scale.device.type == "cpu":
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                layer.product = JoinedLowRankLinear
            if isinstance(layer, LoraAttention):
                layer.attend = attend_on_cpu
    read_last_tokens(model)


class JoinedLowRankLinear(LowRankLinear):
    """y = x W^T + c + (x A^T) B^T, with fewer passes over y and over dx than `LowRankLinear` takes.

    These passes are most of what an adapter costs on a CPU, so everything is summed by the products.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
        if bias is None:
            return LowRankLinear.forward(ctx, x, weight, bias, a, b)
        low = x @ a.T
        ctx.save_for_backward(x, weight, a, b, low)
        # the bias is one more column of B, whose input is always 1
        # shape: [N, r + 1], [O, r + 1]
        low, b = F.pad(low, (0, 1), value=1.0), torch.cat([b, bias[:, None]], dim=1)
        if _is_widening(x, len(weight)):
            return torch.cat([x, low], dim=1) @ torch.cat([weight, b], dim=1).T
        return (x @ weight.T).addmm_(low, b.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor]:
        (dy,) = gradients
        x, weight, a, b, low = ctx.saved_tensors
        d_low = dy @ b
        if not ctx.needs_input_grad[0]:
            dx = None
        elif _is_widening(dy, weight.shape[1]):
            dx = torch.cat([dy, d_low], dim=1) @ torch.cat([weight, a])
        else:
            dx = (dy @ weight).addmm_(d_low, a)
        return dx, None, None, d_low.T @ x, (low.T @ dy).T


def _is_widening(x: Tensor, width: int) -> bool:
    """Whether x W + low B, of this width, is taken as one product of joined operands, [x low] [W; B].

    Copying the operands side by side costs less than a second pass over a result that is much wider than x.
    Measured at four times the width: 10 to 40 % less in all; at three times no less.
    """
    return width > 3 * x.shape[1]


def attend_on_cpu(packed: Tensor, mask: Tensor | None) -> Tensor:
    """Compute `lora_layers.attend` by plain products in bf16, and by torch's fused kernel otherwise."""
    return ProductAttention.apply(packed, mask) if packed.dtype == torch.bfloat16 else attend(packed, mask)


class ProductAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(d) + mask) v in plain products: packed q, k, v [B, L, 3, heads, d] -> [B, L, D].

    The backward pass is written out: what autograd makes of the products copies every operand again.
    """

    @staticmethod
    def forward(ctx: Any, packed: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, _, heads, size = packed.shape
        # shape: 3 x [B heads, L, d]
        q, k, v = packed.permute(2, 0, 3, 1, 4).reshape(3, batch * heads, length, size)
        # shape: [B heads, L, L]
        scores = _scaled_product(q, k.mT, size**-0.5)
        weights = (scores if mask is None else scores.add_(mask)).softmax(dim=-1)
        ctx.save_for_backward(q, k, v, weights)
        ctx.heads = heads
        # shape: [B heads, L, d] -> [B, L, heads d]
        return torch.bmm(weights, v).unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        q, k, v, weights = ctx.saved_tensors
        # shape: [B, L, heads d] -> [B heads, L, d]
        gradient = gradients[0].unflatten(-1, (ctx.heads, -1)).transpose(1, 2).reshape(v.shape)
        d_weights = torch.bmm(gradient, v.mT)
        d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
        scale = q.shape[-1] ** -0.5
        d_packed = q.new_empty(3, *q.shape)
        _scaled_product(d_scores, k, scale, out=d_packed[0])
        _scaled_product(d_scores.mT, q, scale, out=d_packed[1])
        torch.bmm(weights.mT, gradient, out=d_packed[2])
        # shape: [3, B heads, L, d] -> [B, L, 3, heads, d]
        return d_packed.unflatten(1, (-1, ctx.heads)).permute(1, 3, 0, 2, 4).contiguous(), None


def _scaled_product(a: Tensor, b: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """Return scale a b for a [N, I, J], b [N, J, K]; the scale costs no pass of its own."""
    return torch.baddbmm(a.new_zeros(1, 1, 1), a, b, beta=0, alpha=scale, out=out)


class FrozenAttention(nn.Module):
    """Takes the place of a batch-first `nn.MultiheadAttention` without an adapter, for inference.

    `nn.MultiheadAttention` moves the batch behind the sequence before it projects, and so multiplies row by
    row where one product would do. These are the same sums in the order in which the rows lie in memory.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        width = attention.embed_dim
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        self.query = weight[:width], bias[:width]
        self.key_value = weight[width:], bias[width:]
        self.out_proj, self.num_heads = attention.out_proj, attention.num_heads

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool, attn_mask: Tensor | None
    ) -> tuple[Tensor, None]:
        """Attend from query [B, M, D] to key, which is also the value, [B, L, D]: ([B, M, D], None)."""
        return _attend_from(self, *self.project_from(query, key), attn_mask), None

    def project_from(self, query: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Project query [B, M, D], and x [B, L, D]: q [B, M, D], and k beside v [B, L, 2 D]."""
        return F.linear(query, *self.query), F.linear(x, *self.key_value)


def freeze_attention(model: CLIP) -> None:
    """Put `FrozenAttention` into every layer of a model without an adapter, in place."""
    for block in model.modules():
        if type(block) is ResidualAttentionBlock and block.attn.batch_first:
            block.attn = FrozenAttention(block.attn)


def _attend_from(
    attention: LoraAttention | FrozenAttention, query: Tensor, key_value: Tensor, mask: Tensor | None
) -> Tensor:
    """Attend from projected queries [B, M, D] to projected keys and values [B, L, 2 D]: [B, M, D].

    mask: additive, broadcast to [B, heads, M, L], or None.
    """
    # shape: [B, heads, M, d], then [B, heads, L, d] twice
    q, k, v = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for part in (query, *key_value.chunk(2, -1))
    )
    mixed = F.scaled_dot_product_attention(q, k, v, None if mask is None else mask.to(q.dtype))
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))


class LastLayer(ResidualAttentionBlock):
    """A tower's last layer that works for the one token that is read from it: [B, L, D] -> [B, 1, D].

    An embedding is one token's: an image's class token, a caption's end token. Keys and values come from
    every token, but the query, the output and the MLP matter for that one alone.

    read_at: [B] int64, which token of each row; the first if None. `LastTokenCLIP` sets it.
    """

    read_at: Tensor | None

    def forward(
        self,
        q_x: Tensor,
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        normed = self.ln_1(q_x)
        # shape: [L, L] -> [B, 1, 1, L], what the token may attend to
        mask = None if attn_mask is None else attn_mask[self.read_at][:, None, None]
        # shape: [B, 1, D], and [B, L, 2 D]
        query, key_value = self.attn.project_from(self._read(normed), normed)
        x = self._read(q_x) + self.ls_1(_attend_from(self.attn, query, key_value, mask))
        return x + self.ls_2(self.mlp(self.ln_2(x)))

    def _read(self, x: Tensor) -> Tensor:
        """Pick the token that is read: [B, L, D] -> [B, 1, D]."""
        if self.read_at is None:
            return x[:, :1]
        return x.gather(1, self.read_at[:, None, None].expand(-1, 1, x.shape[2]))


class LastTokenCLIP(CutTextCLIP):
    """open_clip's `CLIP` whose text tower ends in a `LastLayer`."""

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Token ids [B, L] with L <= context length -> embeddings [B, D], l2-normalised if asked."""
        ends = (text == self.text_eos_id).int() if self.text_pool_type == "eos" else text
        self.transformer.resblocks[-1].read_at = ends.argmax(dim=-1)
        return super().encode_text(text, normalize)

    def _pooled(self, hidden: Tensor, text: Tensor) -> Tensor:
        return hidden[:, 0]


def read_last_tokens(model: CLIP) -> None:
    """Let each tower's last layer work for the token that is read alone, in place.

    The attention must be `LoraAttention` or `FrozenAttention`. A tower that reads more than one token keeps
    its layer: an image tower that pools otherwise than by its class token, a text tower that takes no cut
    captions.
    """
    visual = model.visual
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None and visual.pool_type == "tok":
        _read_one_token(visual.transformer.resblocks[-1])
    if type(model) is CutTextCLIP and _read_one_token(model.transformer.resblocks[-1]):
        model.__class__ = LastTokenCLIP


def _read_one_token(layer: nn.Module) -> bool:
    if type(layer) is not ResidualAttentionBlock or not isinstance(
        layer.attn, LoraAttention | FrozenAttention
    ):
        return False
    layer.__class__ = LastLayer
    layer.__dict__["read_at"] = None  # a plain attribute, neither a parameter nor a module
    return True
