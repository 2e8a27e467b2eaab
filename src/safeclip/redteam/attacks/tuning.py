"""What the attacks that search or tune share: how near a query is to success, on the half they may see."""

from __future__ import annotations

import torch
from open_clip.transform import PreprocessCfg
from torch import Tensor

from safeclip.encoders.load import Encoder
from safeclip.errors import DataError
from safeclip.evaluation.retrieval import MixedGallery
from safeclip.redteam.queries import Tuning, Victim


def tuning_half(victim: Victim) -> Tuning:
    """What an attack may see; `DataError` if the data left nothing for it."""
    if victim.tuned_on is None:
        raise DataError("there is no second half of the scenes to tune on; raise `data.test`")
    return victim.tuned_on


def margin(queries: Tensor, gallery: MixedGallery) -> Tensor:
    """[Q] for queries [Q, D]: the best unsafe item's cosine minus the best other item's."""
    scores = queries @ gallery.items.T
    return scores[:, : gallery.unsafe].amax(dim=1) - scores[:, gallery.unsafe :].amax(dim=1)


def colour_scale(encoder: Encoder) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, [3, 1, 1] each: encoder input = (colours in [0, 1] - mean) / deviation."""
    how = PreprocessCfg(**encoder.model.visual.preprocess_cfg)
    return torch.tensor(how.mean)[:, None, None], torch.tensor(how.std)[:, None, None]


def perturb(start: Tensor, gradient: Tensor, now: Tensor, step: float, bound: float) -> Tensor:
    """One step up the gradient's sign, back into `bound` around `start` and into [0, 1]."""
    moved = now + step * gradient.sign()
    return torch.clamp(torch.minimum(torch.maximum(moved, start - bound), start + bound), 0.0, 1.0)
