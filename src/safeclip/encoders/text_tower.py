"""Let the text tower accept batches cut to their longest caption.

The text tower is causal and its output is read at the end token, so nothing behind the last end token of a
batch can reach any output: cutting it off changes nothing but the time (77 columns against about 20).
open_clip's `CLIP.encode_text` adds the whole table of positions and so insists on full rows; this subclass
takes the leading positions instead and is otherwise the same model with the same parameter names.
"""

from __future__ import annotations

import torch
from open_clip.model import CLIP
from open_clip.transformer import text_global_pool
from torch import Tensor, nn
from torch.nn import functional as F


class CutTextCLIP(CLIP):
    """open_clip's `CLIP` with `encode_text` for any length up to the context length."""

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Token ids [B, L] with L <= context length -> embeddings [B, D], l2-normalised if asked."""
        length = text.shape[1]
        dtype = self.transformer.get_cast_dtype()
        # shape: [B, L, W]
        hidden = self.token_embedding(text).to(dtype) + self.positional_embedding[:length].to(dtype)
        hidden = self.transformer(hidden, attn_mask=self.attn_mask[:length, :length])
        pooled = self._pooled(self.ln_final(hidden), text)
        if isinstance(self.text_projection, nn.Linear):
            pooled = self.text_projection(pooled)
        elif self.text_projection is not None:
            pooled = pooled @ self.text_projection
        return F.normalize(pooled, dim=-1) if normalize else pooled

    def _pooled(self, hidden: Tensor, text: Tensor) -> Tensor:
        """Read the tower's output [B, L, W] at the end tokens: [B, W]."""
        return text_global_pool(hidden, text, self.text_pool_type, self.text_eos_id)


def accept_cut_text(model: nn.Module) -> bool:
    """Let `model` take cut batches, in place; False, and untouched, where cutting would not be exact.

    Exact needs a causal mask and pooling at the end token: every CLIP of that layout, not SigLIP or CoCa.
    """
    if type(model) is not CLIP or model.attn_mask is None or model.text_pool_type not in ("argmax", "eos"):
        return False
    model.__class__ = CutTextCLIP
    return True


def cut_to_longest(tokens: Tensor, pool_type: str, end_id: int) -> Tensor:
    """Cut token ids [B, C] to [B, L], L just past the batch's last end token (where open_clip pools)."""
    if not len(tokens):
        return tokens
    ends = (tokens == end_id).int() if pool_type == "eos" else tokens
    return tokens[:, : int(torch.argmax(ends, dim=-1).max()) + 1]
