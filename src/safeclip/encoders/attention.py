"""Attention of packed queries, keys and values: torch's fused kernel, or plain products if they are faster.

Shapes: B batch, L tokens, D width, d width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class PlainAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(d) + mask) v in plain products, from packed q, k, v to joined heads.

    For bf16 on a CPU: there the backward pass of torch's fused kernel took ten times as long as its products,
    and what autograd makes of the plain ones copies every operand again.
    """

    @staticmethod
    def forward(ctx: Any, packed: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, _, heads, size = packed.shape
        # shape: 3 x [B heads, L, d]
        q, k, v = packed.permute(2, 0, 3, 1, 4).reshape(3, batch * heads, length, size)
        scores = _scaled_product(q, k.mT, size**-0.5)
        weights = (scores if mask is None else scores.add_(mask)).softmax(dim=-1)
        ctx.save_for_backward(q, k, v, weights)
        ctx.heads = heads
        return _joined(torch.bmm(weights, v), heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        q, k, v, weights = ctx.saved_tensors
        gradient = gradients[0].unflatten(-1, (ctx.heads, -1)).transpose(1, 2).reshape(v.shape)
        d_weights = torch.bmm(gradient, v.mT)
        d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
        scale = q.shape[-1] ** -0.5
        d_packed = q.new_empty(3, *q.shape)
        _scaled_product(d_scores, k, scale, out=d_packed[0])
        _scaled_product(d_scores.mT, q, scale, out=d_packed[1])
        torch.bmm(weights.mT, gradient, out=d_packed[2])
        return d_packed.unflatten(1, (-1, ctx.heads)).permute(1, 3, 0, 2, 4).contiguous(), None


def _scaled_product(a: Tensor, b: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """scale a b for a [N, I, J], b [N, J, K]; the scale costs no pass of its own."""
    return torch.baddbmm(a.new_zeros(1, 1, 1), a, b, beta=0, alpha=scale, out=out)


def _joined(mixed: Tensor, heads: int) -> Tensor:
    """[B heads, L, d] -> [B, L, heads d]."""
    return mixed.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)


def attend(packed: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of packed q, k, v [B, L, 3, heads, D / heads], with an additive mask [L, L] or none.

    Returns [B, L, D]. By torch's fused kernel wherever that is the faster one.
    """
    if packed.device.type == "cpu" and packed.dtype == torch.bfloat16:
        return PlainAttention.apply(packed, mask)
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
