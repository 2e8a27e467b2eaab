"""One forward a tower: safe and generated inputs of a batch together, text cut to its longest caption."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional as F

from safeclip.encoders.embed import Quadruplets
from safeclip.encoders.text_tower import CutTextCLIP, cut_to_longest
from safeclip.training.objectives import Batch
from safeclip.training.rows import Rows


def autocast(model: CLIP, precision: str) -> AbstractContextManager:
    """bf16 autocast on the model's device, or nothing for float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(model.logit_scale.device.type, torch.bfloat16)


def embed_rows(model: CLIP, rows: Rows, index: Tensor, precision: str = "float32") -> Quadruplets:
    """The model's embeddings of the rows `index` ([B], int64), with gradients: [B, D] float32."""
    device = model.logit_scale.device
    tokens = torch.cat([rows.tokens_safe[index], rows.tokens_generated[index]])
    if isinstance(model, CutTextCLIP):
        tokens = cut_to_longest(tokens, model.text_pool_type, model.text_eos_id)
    pixels = torch.from_numpy(rows.pixels[:, rows.pictures[index].numpy()]).flatten(0, 1)
    with autocast(model, precision):
        text = model.encode_text(tokens.to(device))
        image = model.encode_image(pixels.to(device))
    text_safe, text_generated = F.normalize(text.float(), dim=-1).chunk(2)
    image_safe, image_generated = F.normalize(image.float(), dim=-1).chunk(2)
    return Quadruplets(text_safe, text_generated, image_safe, image_generated)


def make_batch(student: Quadruplets, rows: Rows, index: Tensor) -> Batch:
    """What an objective needs about the rows `index`, on the student's device."""
    device = student.text_safe.device

    def pick(tensor: Tensor) -> Tensor:
        return tensor[index].to(device)

    teacher = rows.teacher
    return Batch(
        student=student,
        teacher=Quadruplets(
            pick(teacher.text_safe),
            pick(teacher.text_generated),
            pick(teacher.image_safe),
            pick(teacher.image_generated),
        ),
        near_text=pick(rows.target_text),
        near_image=pick(rows.target_image),
        text_unsafe=pick(rows.text_unsafe),
        image_unsafe=pick(rows.image_unsafe),
        axis=rows.axis.to(device),
    )


@torch.no_grad()
def not_finite(model: CLIP, rows: Rows, index: Tensor, precision: str) -> list[int]:
    """Places in `index` whose embeddings hold a NaN or an infinity.

    Row by row: CPU kernels for bf16 read a little of the next row, times zero, and zero times NaN is NaN.
    """
    return [place for place, row in enumerate(index.split(1)) if not _is_finite(model, rows, row, precision)]


def _is_finite(model: CLIP, rows: Rows, index: Tensor, precision: str) -> bool:
    items = embed_rows(model, rows, index, precision)
    parts = (items.text_safe, items.text_generated, items.image_safe, items.image_generated)
    return all(bool(torch.isfinite(part).all()) for part in parts)
