"""The exact gradient of a whole batch, however many pieces it is embedded in.

GradCache (arXiv 2101.06983, section 3): a loss over a batch depends on the towers through the embeddings
alone. So embed the batch piece by piece without a graph, take the loss's gradient with respect to all
embeddings at once, embed each piece again and send its rows' gradient through it. Memory follows the piece,
contrastive terms and the denominators of masked means still see the whole batch. A piece's random state
(dropout) is saved the first time and replayed the second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from open_clip.model import CLIP
from torch import Tensor

from safeclip.encoders.embed import Quadruplets
from safeclip.training.distributed import ALONE, Ranks
from safeclip.training.forward import embed_rows, make_batch
from safeclip.training.objectives import Batch
from safeclip.training.rows import Rows


def accumulate_gradients(
    model: CLIP,
    rows: Rows,
    index: Tensor,
    losses_of: Callable[[Batch], dict[str, Tensor]],
    weights: Mapping[str, float],
    *,
    precision: str = "float32",
    micro_batch: int | None = None,
    ranks: Ranks = ALONE,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Add the gradient of the weighted losses on the rows `index` to this rank's parameters.

    Args:
        index: [B], the joint batch of all ranks. This rank embeds its share of it.
        micro_batch: rows that are embedded with a graph at a time; the whole share without it.

    Returns the total loss and each term, detached; every rank's are those of the joint batch. The caller
    sums the parameters' gradients over the ranks.
    """
    pieces = ranks.share(index).split(micro_batch or len(index))
    replay = len(pieces) > 1
    embedded, states = [], []
    for piece in pieces:
        states.append(_random_state(model))
        with torch.set_grad_enabled(not replay):
            embedded.append(_embed(model, rows, piece, precision))
    own = torch.cat([part.detach() for part in embedded])
    joint = ranks.gather(own, len(index)).requires_grad_()
    losses = losses_of(make_batch(Quadruplets(*joint.unbind(1)), rows, index))
    total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
    total.backward()
    assert joint.grad is not None
    gradients = joint.grad.tensor_split(ranks.count)[ranks.rank].split([len(piece) for piece in pieces])
    for piece, state, part, gradient in zip(pieces, states, embedded, gradients, strict=True):
        if replay:
            _set_random_state(model, state)
            part = _embed(model, rows, piece, precision)
        part.backward(gradient)
    return total.detach(), {name: loss.detach() for name, loss in losses.items()}


def _embed(model: CLIP, rows: Rows, index: Tensor, precision: str) -> Tensor:
    """[B, 4, D]: the four embeddings of each row."""
    quadruplets = embed_rows(model, rows, index, precision)
    return torch.stack(
        [
            quadruplets.text_safe,
            quadruplets.text_generated,
            quadruplets.image_safe,
            quadruplets.image_generated,
        ],
        dim=1,
    )


def _random_state(model: CLIP) -> tuple[Tensor, Tensor | None]:
    device = model.logit_scale.device
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(model: CLIP, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], model.logit_scale.device)
