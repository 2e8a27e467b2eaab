"""Add a low-rank update to linear, patch, token and attention layers: y = W x + (alpha / rank) B (A x).

LoRA (arXiv 2106.09685, section 4.1). W is frozen; only A and B learn. The update is computed on the side of
the activations: B A is never formed, and no gradient of the shape of W is ever needed. B starts at zero, so
a new layer gives its base layer's outputs.

Each layer keeps its base layer's parameter names (`weight`, `in_proj_weight`, ...) and adds `lora_a` and
`lora_b`: the model's state dict is the base's plus the adapter's keys. Under autocast the frozen weights are
cast once, not at every step.

Shapes: B batch, L tokens, D width, N rows of a product, I inputs, O outputs, r rank, P adapted projections
out of q, k, v.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

ALL_ROWS = slice(None)


class LowRankLinear(torch.autograd.Function):
    """y = x W^T + c + (x A^T) B^T for x [N, I], frozen W [O, I] and c [O] (or None), A [r, I], B [O, r].

    The update is added by the product itself, in place, forward and backward.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
        # shape: [N, r]
        low = x @ a.T
        ctx.save_for_backward(x, weight, a, b, low)
        return F.linear(x, weight, bias).addmm_(low, b.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor]:
        (dy,) = gradients
        x, weight, a, b, low = ctx.saved_tensors
        d_low = dy @ b
        dx = (dy @ weight).addmm_(d_low, a) if ctx.needs_input_grad[0] else None
        return dx, None, None, d_low.T @ x, (low.T @ dy).T


def attend(packed: Tensor, mask: Tensor | None) -> Tensor:
    """Return the attention [B, L, D] of packed q, k, v [B, L, 3, heads, D / heads].

    mask: additive [L, L], or None.
    """
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class LoraLayer(nn.Module):
    """Base of the layers: the factors, their scale, the product, and the dense update they stand for."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter
    # the base parameter that the update belongs to
    weight_name = "weight"
    # `fast_cpu.speed_up` puts a faster one with the same results here
    product: type[LowRankLinear] = LowRankLinear

    def _add_factors(self, a: Tensor, b: Tensor, scale: float, generator: torch.Generator) -> None:
        # Kaiming-uniform as nn.Linear's own start: bound 1 / sqrt(inputs of one row of A)
        bound = 1.0 / math.sqrt(a[0].numel())
        self.lora_a = nn.Parameter(a.uniform_(-bound, bound, generator=generator))
        self.lora_b = nn.Parameter(b.zero_())
        self.scale = scale
        self._cast: dict[str, tuple[int, Tensor]] = {}

    def _low_rank(
        self, x: Tensor, weight: str, bias: str | None, a: Tensor, b: Tensor, rows: slice = ALL_ROWS
    ) -> Tensor:
        """Map x [..., I] to [..., O] by these rows of the frozen parameters, and the factors a, b."""
        dtype = _compute_dtype(x)
        parameters = [None if name is None else self._frozen(name, dtype) for name in (weight, bias)]
        frozen = [None if value is None else value[rows] for value in parameters]
        flat = x.reshape(-1, x.shape[-1]).to(dtype)
        result: Tensor = self.product.apply(flat, *frozen, a.to(dtype), b.to(dtype))
        return result.view(*x.shape[:-1], -1)

    def cast_frozen(self, dtype: torch.dtype) -> None:
        """Cast the frozen parameters now. Compiled code needs it: it reads the casts that are there."""
        for name, parameter in self.named_parameters(recurse=False):
            if not parameter.requires_grad:
                self._kept_cast(name, parameter, dtype)

    def _frozen(self, name: str, dtype: torch.dtype) -> Tensor | None:
        """Return the frozen parameter as a matrix (or vector) in `dtype`."""
        parameter: Tensor | None = getattr(self, name)
        if parameter is None:
            return None
        if parameter.dtype != dtype:
            # versions mean nothing to the compiler
            compiling = torch.compiler.is_compiling()
            parameter = self._cast[name][1] if compiling else self._kept_cast(name, parameter, dtype)
        return parameter.flatten(1) if parameter.dim() > 1 else parameter

    def _kept_cast(self, name: str, parameter: Tensor, dtype: torch.dtype) -> Tensor:
        """Cast the parameter, and keep the cast until the parameter changes."""
        version, cast = self._cast.get(name, (-1, parameter))
        if (version, cast.dtype, cast.device) != (parameter._version, dtype, parameter.device):
            cast = parameter.detach().to(dtype)
            self._cast[name] = (parameter._version, cast)
        return cast

    def dense_update(self) -> Tensor:
        """Return (alpha / rank) B A in the shape of the base weight, for merging."""
        raise NotImplementedError


def _compute_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class LoraLinear(LoraLayer):
    """`nn.Linear` with a low-rank update. Takes over the base layer's frozen parameters."""

    def __init__(self, base: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weight, self.bias = base.weight, base.bias
        outputs, inputs = base.weight.shape
        self._add_factors(torch.empty(rank, inputs), torch.empty(outputs, rank), scale, generator)

    def forward(self, x: Tensor) -> Tensor:
        return self._low_rank(x, "weight", "bias", self.lora_a, self.scale * self.lora_b)

    def dense_update(self) -> Tensor:
        return self.scale * (self.lora_b @ self.lora_a)


class LoraPatchEmbedding(LoraLayer):
    """The bias-free patch convolution of a ViT (kernel = stride) with a low-rank update.

    Patches do not overlap, so the convolution is a linear layer on each patch's pixels.
    """

    def __init__(self, base: nn.Conv2d, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weight, self.stride = base.weight, base.stride
        self._add_factors(
            torch.empty(rank, *base.weight.shape[1:]),
            torch.empty(base.out_channels, rank, 1, 1),
            scale,
            generator,
        )

    def forward(self, images: Tensor) -> Tensor:
        batch, channels, height, width = images.shape
        tall, wide = self.stride
        down, across = height // tall, width // wide
        # shape: [B, C, down, tall, across, wide] -> [B, down, across, C * tall * wide]
        cut = images[:, :, : down * tall, : across * wide].view(batch, channels, down, tall, across, wide)
        patches = cut.to(_compute_dtype(images)).permute(0, 2, 4, 1, 3, 5).reshape(batch, down, across, -1)
        a, b = self.lora_a.flatten(1), self.scale * self.lora_b.flatten(1)
        return self._low_rank(patches, "weight", None, a, b).permute(0, 3, 1, 2)

    def dense_update(self) -> Tensor:
        return self.scale * torch.einsum("or,rchw->ochw", self.lora_b[:, :, 0, 0], self.lora_a)


class LoraTokens(LoraLayer):
    """`nn.Embedding` [T, D] with a low-rank update B A. Each token has r numbers of its own, its row of B.

    A token that training never sees keeps exactly the embedding it had.
    """

    def __init__(self, base: nn.Embedding, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weight, self.num_embeddings = base.weight, base.num_embeddings
        tokens, width = base.weight.shape
        self._add_factors(torch.empty(rank, width), torch.empty(tokens, rank), scale, generator)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight) + F.embedding(tokens, self.scale * self.lora_b) @ self.lora_a

    def dense_update(self) -> Tensor:
        return self.scale * (self.lora_b @ self.lora_a)


class LoraAttention(LoraLayer):
    """`nn.MultiheadAttention` of open_clip (packed q, k, v, batch first) with low-rank updates.

    Arguments of `forward` are those of `nn.MultiheadAttention`. Query, key and value are the same tensor
    [B, L, D]; `attn_mask` is additive [L, L] or None. It returns (outputs [B, L, D], None).
    """

    weight_name = "in_proj_weight"
    # `fast_cpu.speed_up` puts a faster one with the same results here
    attend: Callable[[Tensor, Tensor | None], Tensor] = staticmethod(attend)

    def __init__(
        self,
        base: nn.MultiheadAttention,
        rank: int,
        scale: float,
        generator: torch.Generator,
        query: bool = True,
    ) -> None:
        super().__init__()
        self.in_proj_weight, self.in_proj_bias = base.in_proj_weight, base.in_proj_bias
        self.num_heads, self.rank, width = base.num_heads, rank, base.embed_dim
        # P: the last parts of (q, k, v)
        self.parts = 3 if query else 2
        a, b = torch.empty(self.parts * rank, width), torch.empty(self.parts, width, rank)
        self._add_factors(a, b, scale, generator)
        self.out_proj = LoraLinear(base.out_proj, rank, scale, generator)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        assert query is key is value, "self-attention only"
        assert not need_weights, "the weights are never formed"
        batch, length, _ = query.shape
        # shape: [B, L, 3 D]
        packed = self._low_rank(query, "in_proj_weight", "in_proj_bias", self.lora_a, self._packed_b())
        mixed = self.attend(packed.view(batch, length, 3, self.num_heads, -1), attn_mask)
        return self.out_proj(mixed), None

    def project_from(self, query: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Project a query of its own [B, 1, D], and keys and values of x [B, L, D].

        Returns q [B, 1, D] and k beside v [B, L, 2 D].
        """
        names, width = ("in_proj_weight", "in_proj_bias"), query.shape[-1]
        a, b = self.lora_a.split([(self.parts - 2) * self.rank, 2 * self.rank]), self.scale * self.lora_b
        # a query that is not adapted has factors of rank 0
        q = self._low_rank(query, *names, a[0], b[0, :, : len(a[0])], slice(0, width))
        key_value = self._low_rank(x, *names, a[1], torch.block_diag(*b[-2:]), slice(width, None))
        return q, key_value

    def _packed_b(self) -> Tensor:
        """Return B of the packed projection, [3 D, P r]: each part's B on the diagonal, zeros elsewhere.

        One product with zeros in it is cheaper than P products into strided slices.
        """
        diagonal = torch.block_diag(*(self.scale * self.lora_b))
        return F.pad(diagonal, (0, 0, 3 * self.lora_b.shape[1] - len(diagonal), 0))

    def dense_update(self) -> Tensor:
        a = self.lora_a.view(self.parts, self.rank, -1)
        update = self.scale * torch.bmm(self.lora_b, a).flatten(0, 1)
        return update if self.parts == 3 else F.pad(update, (0, 0, update.shape[1], 0))
