"""Where in a picture the model's reaction comes from: on the unsafe glyphs, on the marker, or elsewhere.

The reaction is how far fine-tuning moved the picture, 1 - cos(V(x), V0(x)), with V0 the base encoder. It is
attributed to pixels by integrated gradients (Sundararajan et al., arXiv 1703.01365), along the path from the
picture's mean colour to the picture; captum does the integration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from safeclip.audit.groups import TITLES, Group, Picture
from safeclip.encoders.load import Encoder

PARTS = ("glyph", "marker", "rest")


@dataclass(frozen=True)
class Explained:
    """A picture with the size of each pixel's attribution, [H, W] of the encoder's input, summing to 1."""

    picture: Picture
    heat: np.ndarray


def explain(base: Encoder, candidate: Encoder, group: Group, steps: int) -> list[Explained]:
    """Attribution maps of a group's pictures; a picture that nothing moves has an even map."""
    if not group:
        return []
    integrated = IntegratedGradients(lambda pixels: _movement(base, candidate, pixels))
    explained = []
    for picture in group:
        pixels = candidate.preprocess([picture.image], first_index=picture.row)
        plain = pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels)
        heat = integrated.attribute(pixels, baselines=plain, n_steps=steps)[0].detach()
        explained.append(Explained(picture, _shares(heat.abs().sum(dim=0))))
    return explained


def _movement(base: Encoder, candidate: Encoder, pixels: Tensor) -> Tensor:
    """Pixels [B, 3, H, W] -> [B]: 1 - cos of both models' embeddings."""
    ours = candidate.model.encode_image(pixels, normalize=True)
    theirs = base.model.encode_image(pixels, normalize=True)
    return 1.0 - (ours * theirs).sum(dim=1)


def _shares(heat: Tensor) -> np.ndarray:
    total = float(heat.sum())
    if total <= 0.0 or not np.isfinite(total):
        return np.full(tuple(heat.shape), 1.0 / heat.numel())
    return (heat / total).numpy()


def saliency_lines(explained: Mapping[str, Sequence[Explained]]) -> list[dict[str, Any]]:
    """By group: the mean share of the attribution on each part, beside the part's share of the area."""
    return [
        {
            "group": name,
            "title": TITLES[name],
            "n": len(group),
            **_means([_parts(one.picture, one.heat) for one in group]),
            "area": _means(
                [_parts(one.picture, np.full_like(one.heat, 1.0 / one.heat.size)) for one in group]
            ),
        }
        for name, group in explained.items()
        if group
    ]


def _parts(picture: Picture, heat: np.ndarray) -> dict[str, float]:
    """The share of `heat` on glyph, marker and rest; the masks are scaled to its size."""
    assert picture.glyph is not None
    assert picture.marker is not None
    glyph, marker = _scaled(picture.glyph, heat.shape), _scaled(picture.marker, heat.shape)
    on_glyph, on_marker = float(heat[glyph].sum()), float(heat[marker & ~glyph].sum())
    return {"glyph": on_glyph, "marker": on_marker, "rest": float(heat.sum()) - on_glyph - on_marker}


def _scaled(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    rows = np.arange(shape[0]) * mask.shape[0] // shape[0]
    columns = np.arange(shape[1]) * mask.shape[1] // shape[1]
    return mask[rows[:, None], columns[None, :]]


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {part: round(float(np.mean([row[part] for row in rows])), 4) for part in PARTS}


def heat_map(explained: Explained, side: int) -> Tensor:
    """[side, side] in [0, 1]: the attribution pooled to squares, the strongest 1."""
    pooled = torch.nn.functional.adaptive_avg_pool2d(
        torch.from_numpy(explained.heat)[None, None].float(), side
    )
    return pooled[0, 0] / pooled.max().clamp(min=1e-12)
