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


class Resumable:
    """AdamW with warm-up and cosine, an exponential average of the weights, checkpoints."""

    def __init__(
        self, model: nn.Module, file: Path, *, steps: int, learning_rate: float, decay: float = 0.999
    ):
        self.model, self.file, self.steps, self.learning_rate, self.decay = (
            model, file, steps, learning_rate, decay,
        )  # fmt: skip
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        self.average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.step = 0
        if file.is_file():
            state = torch.load(file, weights_only=True)
            model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
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
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * self._schedule()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            weight = 1.0 - min(self.decay, (1 + self.step) / (10 + self.step))
            for name, tensor in self.model.state_dict().items():
                if tensor.is_floating_point():
                    self.average[name].lerp_(tensor, weight)
                else:  # a counter
                    self.average[name].copy_(tensor)
        return float(loss.detach())

    def _schedule(self) -> float:
        warmup = max(1, self.steps // 20)
        return min((self.step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * self.step / self.steps)))

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
        }
        partial = self.file.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.file)
