"""Embed many captions or images with one encoder: l2-normalised float32, in the order given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from safeclip.encoders.load import Encoder


@dataclass(frozen=True)
class Quadruplets:
    """One encoder's l2-normalised embeddings of the same N rows, each [N, D] float32."""

    text_safe: Tensor
    text_generated: Tensor
    image_safe: Tensor
    image_generated: Tensor

    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the four columns in the order of the fields."""
        return self.text_safe, self.text_generated, self.image_safe, self.image_generated

    def map(self, function: Callable[[Tensor], Tensor]) -> Quadruplets:
        """Apply a function to each column."""
        return Quadruplets(*(function(part) for part in self.parts()))


@torch.no_grad()
def embed_texts(encoder: Encoder, texts: Sequence[str], batch_size: int = 256) -> Tensor:
    """Embed captions: [N, D] on the CPU.

    Batches are formed by length, so that short captions are not padded. A row depends on its batch by less
    than 1e-5.
    """
    device = encoder.model.logit_scale.device
    result = torch.zeros(len(texts), encoder.embed_dim)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        tokens = encoder.tokenize([texts[row] for row in rows]).to(device)
        result[rows] = encoder.model.encode_text(tokens, normalize=True).float().cpu()
    return result


@torch.no_grad()
def embed_images(encoder: Encoder, images: Sequence[bytes], batch_size: int = 256) -> Tensor:
    """Embed PNG, JPEG or WebP bytes: [N, D] on the CPU. A `DataError` names the index of a broken image."""
    device = encoder.model.logit_scale.device
    result = torch.zeros(len(images), encoder.embed_dim)
    for start in range(0, len(images), batch_size):
        pixels = encoder.preprocess(images[start : start + batch_size], first_index=start).to(device)
        result[start : start + batch_size] = encoder.model.encode_image(pixels, normalize=True).float().cpu()
    return result


def embed_quadruplets(
    encoder: Encoder,
    table: pa.Table,
    batch_size: int,
    progress: Callable[[int], None] = lambda rows: None,
) -> Quadruplets:
    """Embed the four columns of a table of quadruplets, each [N, D] in the table's order."""
    embedded = {}
    for name in ("text_safe", "text_generated", "image_safe", "image_generated"):
        column = table[name.replace("text", "caption")].to_pylist()
        embed = embed_texts if name.startswith("text") else embed_images
        embedded[name] = embed(encoder, column, batch_size)  # type: ignore[operator]
        progress(len(column))
    return Quadruplets(**embedded)
