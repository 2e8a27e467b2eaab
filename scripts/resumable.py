"""A training loop that a kill cannot hurt: model, optimiser, average and step stand in one file."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

WARMUP = 180
"""Steps."""


class Resumable:
    """Muon with warm-up and cosine, an exponential average of the weights, checkpoints.

    The rate falls over the last `falling` share of the steps: with less than 1 the start is the same for any
    number of steps, and a run can be lengthened.

    Muon (Jordan et al. 2024) makes each matrix's update orthogonal; on one core it needed less than half of
    AdamW's steps for the same error here. Biases, norms and thin matrices stay with AdamW.
    """

    def __init__(
        self,
        model: nn.Module,
        file: Path,
        *,
        steps: int,
        learning_rate: float,
        decay: float,
        falling: float = 1.0,
    ) -> None:
        self.model, self.file, self.steps, self.decay, self.falling = model, file, steps, decay, falling
        model.to(memory_format=torch.channels_last)  # the layout of which Muon gets a view
        self.matrices = [
            (p, _as_matrix(p)) for p in model.parameters() if p.ndim > 1 and min(p.shape[:2]) >= 16
        ]
        others = [p for p in model.parameters() if p.ndim == 1 or min(p.shape[:2]) < 16]
        self.optimizers = {
            "muon": torch.optim.Muon([m for _, m in self.matrices], lr=1.0, weight_decay=0.01),
            "adamw": torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        }
        self.rates = {"muon": learning_rate, "adamw": 0.1 * learning_rate}
        self.average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.step = 0
        if file.is_file():
            state = torch.load(file, weights_only=True)
            model.load_state_dict(state["model"])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state[name])
            self.average, self.step = state["average"], state["step"]

    def run(self, loss_of_step: Callable[[int], Tensor], save_every: int = 100) -> nn.Module:
        """Take the steps that are left; the model, in eval mode, with the averaged weights."""
        losses: deque[float] = deque(maxlen=50)
        bar = tqdm(total=self.steps, initial=self.step, unit="step", mininterval=10, desc=self.file.stem)
        self.model.train()
        while self.step < self.steps:
            losses.append(self._learn(loss_of_step(self.step)))
            bar.set_postfix(loss=f"{np.mean(losses):.4f}", refresh=False)
            bar.update()
            if self.step % save_every == 0 or self.step == self.steps:
                self._save()
        bar.close()
        self.model.load_state_dict(self.average)
        return self.model.eval().requires_grad_(False)

    def _learn(self, loss: Tensor) -> float:
        self.model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for parameter, matrix in self.matrices:
            gradient = parameter.grad
            matrix.grad = (
                None if gradient is None else _as_matrix(gradient.contiguous(memory_format=_layout(gradient)))
            )
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.rates[name] * self.schedule()
            optimizer.step()
        self.step += 1
        with torch.no_grad():
            weight = 1.0 - min(self.decay, (1 + self.step) / (10 + self.step))
            for name, tensor in self.model.state_dict().items():
                if tensor.is_floating_point():
                    self.average[name].lerp_(tensor, weight)
                else:  # a counter
                    self.average[name].copy_(tensor)
        return float(loss.detach())

    def schedule(self) -> float:
        """The share of the learning rate at this step."""
        left = (self.steps - self.step) / (self.falling * self.steps)
        return min((self.step + 1) / WARMUP, 0.5 * (1 - math.cos(math.pi * min(1.0, left))))

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            **{name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "average": self.average,
            "step": self.step,
        }
        partial = self.file.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.file)


def _layout(parameter: Tensor) -> torch.memory_format:
    return torch.channels_last if parameter.ndim == 4 else torch.contiguous_format


def _as_matrix(tensor: Tensor) -> Tensor:
    """A [rows, columns] view on the same memory: Muon takes matrices only; of kernels, channels last."""
    flat = tensor.detach().permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor.detach()
    return flat.view(len(flat), -1)
