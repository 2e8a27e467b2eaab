"""One training step: forward, loss, backward, and the optimiser's step on the adapter.

The gradient of a batch is exact however many pieces the batch is embedded in: GradCache (arXiv 2101.06983,
section 3). A loss depends on the towers through the embeddings alone. So the batch is embedded piece by piece
without a graph, the loss's gradient is taken with respect to all embeddings at once, and each piece is
embedded again to send its rows' gradient through the towers. Memory follows the piece; contrastive terms and
the denominators of masked means still see the whole batch.

Shapes: B rows of the joint batch of all ranks, D the embedding's width, L tokens, H and W an image's pixels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional as F

from safeclip.core.errors import TrainingError
from safeclip.encoders.embed import Quadruplets
from safeclip.encoders.fast_cpu import speed_up
from safeclip.encoders.load import Encoder
from safeclip.encoders.lora import adapter_parameters, add_lora
from safeclip.encoders.text_tower import CutTextCLIP, cut_to_longest
from safeclip.settings import Finetune
from safeclip.training.compiled import compile_towers, without_compile
from safeclip.training.distributed import ALONE, Ranks
from safeclip.training.objectives import Batch, find_objective, resolve_weights
from safeclip.training.rows import Rows


class Student:
    """The encoder's trainable copy: frozen weights, a LoRA adapter, and the adapter's optimiser.

    Raises:
        SettingsError: an unknown objective, a weight for a loss that it does not have, or no compiler.
    """

    def __init__(self, encoder: Encoder, cfg: Finetune, seed: int, ranks: Ranks = ALONE) -> None:
        self.cfg, self.ranks = cfg, ranks
        self.objective = find_objective(cfg.objective)
        self.weights = resolve_weights(self.objective, cfg.weights)
        # add_lora works in place, and the teacher must not move
        self.model = copy.deepcopy(encoder.model)
        add_lora(self.model, **cfg.lora.model_dump(), seed=seed)
        # optional: the same results in less time
        speed_up(self.model)
        self.model.set_grad_checkpointing(cfg.gradient_checkpointing)
        if cfg.compile:
            compile_towers(self.model, getattr(torch, cfg.precision))
        self.parameters = adapter_parameters(self.model)
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=cfg.learning_rate, fused=True)

    def train_step(self, rows: Rows, index: Tensor, step: int) -> dict[str, float]:
        """Take optimiser step `step` (from 0) on the rows `index` ([B] int64); return the losses by name.

        Every rank calls this with the same arguments and returns the losses of the joint batch.

        Raises:
            TrainingError: the loss or the gradient is not finite. The message names the rows at fault.
        """
        self.optimizer.zero_grad(set_to_none=True)
        total, losses = accumulate_gradients(
            self.model,
            rows,
            index,
            self.objective.losses,
            self.weights,
            precision=self.cfg.precision,
            micro_batch=self.cfg.micro_batch,
            ranks=self.ranks,
        )
        self.ranks.sum_gradients(self.parameters.values())
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.cfg.max_grad_norm)
        if not torch.isfinite(total + norm):
            with without_compile(self.cfg.compile):
                broken = [rows.ids[row] for row in not_finite(self.model, rows, index, self.cfg.precision)]
            culprits = f"; no number comes out of {', '.join(broken)}" if broken else ""
            raise TrainingError(
                f"step {step + 1}: loss or gradient is not finite (loss {float(total)}){culprits}; "
                "mend those rows or lower finetune.learning_rate"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.cfg, step)
        self.optimizer.step()
        return {"total_loss": float(total), **{name: float(loss) for name, loss in losses.items()}}

    def factors(self) -> dict[str, Tensor]:
        """Return a copy of the adapter's factors on the CPU, by parameter name."""
        return {name: value.detach().cpu().clone() for name, value in self.parameters.items()}


def learning_rate(cfg: Finetune, step: int) -> float:
    """Return the rate of `step` (from 0): linear warm-up times a cosine to zero (arXiv 1608.03983, eq. 5)."""
    warm_up = min(1.0, (step + 1) / max(1, cfg.warmup_steps))
    return cfg.learning_rate * warm_up * 0.5 * (1.0 + math.cos(math.pi * step / cfg.steps))


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
        index: [B] int64, the joint batch of all ranks. This rank embeds its share of it.
        micro_batch: rows that are embedded with a graph at a time; the whole share without it.

    Returns the total loss and each term, detached. They are the joint batch's on every rank. The caller sums
    the parameters' gradients over the ranks.
    """
    pieces = ranks.share(index).split(micro_batch or len(index))
    replay = len(pieces) > 1

    # forward
    embedded, random_states = [], []
    for piece in pieces:
        random_states.append(_random_state(model))
        with torch.set_grad_enabled(not replay):
            embedded.append(_embed_stacked(model, rows, piece, precision))

    # loss, of the joint batch
    # shape: [B of this rank, 4, D] -> [B, 4, D]
    local = torch.cat([part.detach() for part in embedded])
    joint = ranks.gather(local, len(index)).requires_grad_()
    losses = losses_of(make_batch(Quadruplets(*joint.unbind(1)), rows, index))
    total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()

    # backward: to the embeddings, then through the towers
    total.backward()
    assert joint.grad is not None
    gradients = joint.grad.tensor_split(ranks.count)[ranks.rank].split([len(piece) for piece in pieces])
    for piece, state, part, gradient in zip(pieces, random_states, embedded, gradients, strict=True):
        if replay:
            # dropout must mask the same units as in the forward above
            _set_random_state(model, state)
            part = _embed_stacked(model, rows, piece, precision)
        part.backward(gradient)
    return total.detach(), {name: loss.detach() for name, loss in losses.items()}


def _embed_stacked(model: CLIP, rows: Rows, index: Tensor, precision: str) -> Tensor:
    """Embed rows as one tensor [B, 4, D], so that one gradient tensor holds all four columns."""
    return torch.stack(embed_rows(model, rows, index, precision).parts(), dim=1)


def _random_state(model: CLIP) -> tuple[Tensor, Tensor | None]:
    device = model.logit_scale.device
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(model: CLIP, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], model.logit_scale.device)


def embed_rows(model: CLIP, rows: Rows, index: Tensor, precision: str = "float32") -> Quadruplets:
    """Embed the rows `index` ([B] int64), with gradients: each column [B, D] float32, l2-normalised.

    Each tower runs once, on safe and generated inputs together; text is cut to its longest caption.
    """
    device = model.logit_scale.device
    # shape: 2 x [B, C] -> [2 B, L]
    tokens = torch.cat([rows.tokens_safe[index], rows.tokens_generated[index]])
    if isinstance(model, CutTextCLIP):
        tokens = cut_to_longest(tokens, model.text_pool_type, model.text_eos_id)
    # shape: [2, B, 3, H, W] -> [2 B, 3, H, W]
    pixels = torch.from_numpy(rows.pixels[:, rows.image_index[index].numpy()]).flatten(0, 1)
    with _autocast(model, precision):
        text = model.encode_text(tokens.to(device))
        image = model.encode_image(pixels.to(device))
    # shape: [2 B, D] -> 2 x [B, D]
    text_safe, text_generated = F.normalize(text.float(), dim=-1).chunk(2)
    image_safe, image_generated = F.normalize(image.float(), dim=-1).chunk(2)
    return Quadruplets(text_safe, text_generated, image_safe, image_generated)


def _autocast(model: CLIP, precision: str) -> AbstractContextManager:
    if precision == "float32":
        return nullcontext()
    return torch.autocast(model.logit_scale.device.type, torch.bfloat16)


def make_batch(student: Quadruplets, rows: Rows, index: Tensor) -> Batch:
    """Gather what an objective sees of the rows `index` ([B] int64), on the student's device."""
    device = student.text_safe.device

    def pick(tensor: Tensor) -> Tensor:
        return tensor[index].to(device)

    return Batch(
        student=student,
        teacher=rows.teacher.map(pick),
        near_text=pick(rows.target_text),
        near_image=pick(rows.target_image),
        text_unsafe=pick(rows.text_unsafe),
        image_unsafe=pick(rows.image_unsafe),
        axis=rows.axis.to(device),
    )


@torch.no_grad()
def not_finite(model: CLIP, rows: Rows, index: Tensor, precision: str) -> list[int]:
    """Return those rows of `index` whose embeddings are not finite.

    Each row is embedded alone: CPU kernels for bf16 read a little of the next row, times zero, and zero times
    NaN is NaN.
    """
    return [
        int(row)
        for row in index
        if not all(
            bool(torch.isfinite(part).all()) for part in embed_rows(model, rows, row[None], precision).parts()
        )
    ]
