"""The last layer of a tower for the one token that is read from it.

An embedding is one token's: a picture's class token, a caption's end token. The last layer's keys and values
come from every token, but its query, output and MLP matter for that one alone; for the others they are not
worked out. The embedding is the same. Of a tower of 4 layers this leaves out a fifth of the work, of 12 a
fourteenth.
"""

from __future__ import annotations

from open_clip.model import CLIP
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor

from safeclip.encoders.lora_layers import LoraAttention
from safeclip.encoders.text_tower import CutTextCLIP


class LastLayer(ResidualAttentionBlock):
    """A layer that gives one token a row: [B, L, D] -> [B, 1, D].

    read_at: [B], which token; the first without it. Whoever runs the tower sets it.
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
        # shape: [B, 1, 1, L], what the token may look at
        mask = None if attn_mask is None else attn_mask[self.read_at][:, None, None]
        x = self._read(q_x) + self.ls_1(self.attn.attend_from(self._read(normed), normed, mask))
        return x + self.ls_2(self.mlp(self.ln_2(x)))

    def _read(self, x: Tensor) -> Tensor:
        if self.read_at is None:
            return x[:, :1]
        return x.gather(1, self.read_at[:, None, None].expand(-1, 1, x.shape[2]))


class LastTokenCLIP(CutTextCLIP):
    """open_clip's `CLIP` whose last layers are `LastLayer`s."""

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Token ids [B, L] with L <= context length -> embeddings [B, D], l2-normalised if asked."""
        ends = (text == self.text_eos_id).int() if self.text_pool_type == "eos" else text
        self.transformer.resblocks[-1].read_at = ends.argmax(dim=-1)
        return super().encode_text(text, normalize)

    def _pooled(self, hidden: Tensor, text: Tensor) -> Tensor:
        return hidden[:, 0]


def read_last_tokens(model: CLIP) -> bool:
    """Let an adapted model's last layers work for the token that is read, in place; False where they cannot.

    They can in a ViT that reads its class token beside a text tower that takes cut captions.
    """
    visual = model.visual
    if type(model) is not CutTextCLIP or not isinstance(visual, VisionTransformer):
        return False
    if visual.attn_pool is not None or visual.pool_type != "tok":
        return False
    lasts = [tower.resblocks[-1] for tower in (visual.transformer, model.transformer)]
    if any(type(last) is not ResidualAttentionBlock for last in lasts):
        return False
    assert all(isinstance(last.attn, LoraAttention) for last in lasts), "the model carries no adapter"
    for last in lasts:
        last.__class__, last.read_at = LastLayer, None
    model.__class__ = LastTokenCLIP
    return True
