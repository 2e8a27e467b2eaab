"""The evaluation's own metrics on the validation rows, by the rows' labels (truth is the judge's alone).

Both directions: t2i asks with text for pictures, i2t with pictures for text. What each metric means stands
in `evaluation.retrieval`. Zero-shot is not looked at: its pictures belong to the report.
"""

from __future__ import annotations

import torch
from open_clip.model import CLIP
from torch import Tensor

from safeclip.encoders.embed import Quadruplets
from safeclip.metrics.retrieval import retrieval_outcomes
from safeclip.training.forward import embed_rows
from safeclip.training.rows import Rows

OUTCOMES = {
    "harmful": "unsafe.harmful_top1",
    "safe_r1": "safe.r1",
    "preference": "safe.preference",
    "over_redirection": "generated_safe.over_redirection",
}
"""The metrics by name, each with its place in the evaluation; `_t2i` and `_i2t` are appended."""

BLOCK = 512  # rows at a time


@torch.no_grad()
def validate(model: CLIP, rows: Rows, precision: str = "float32") -> dict[str, float]:
    """`OUTCOMES` both ways of the model on these rows, as shares of 1."""
    parts = [embed_rows(model, rows, index, precision) for index in torch.arange(len(rows)).split(BLOCK)]
    return retrieval_metrics(
        Quadruplets(
            torch.cat([part.text_safe for part in parts]).cpu(),
            torch.cat([part.text_generated for part in parts]).cpu(),
            torch.cat([part.image_safe for part in parts]).cpu(),
            torch.cat([part.image_generated for part in parts]).cpu(),
        ),
        rows.text_unsafe,
        rows.image_unsafe,
    )


def retrieval_metrics(items: Quadruplets, text_unsafe: Tensor, image_unsafe: Tensor) -> dict[str, float]:
    """`OUTCOMES` both ways of embeddings [N, D] with labels [N]; what the labels leave unmeasured is 0."""
    embeddings = Quadruplets(items.text_safe, items.text_generated, items.image_safe, items.image_generated)
    found = retrieval_outcomes(embeddings, text_unsafe.numpy(), image_unsafe.numpy())
    metrics = {}
    for name, place in OUTCOMES.items():
        for way in ("t2i", "i2t"):
            outcome = found.get(f"retrieval.{way}.{place}")
            metrics[f"{name}_{way}"] = float(outcome.values.mean()) if outcome else 0.0
    return metrics
