"""The matrix products of a piece of work: how many operations they are, and how long they take alone."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm"}


class Products(TorchDispatchMode):
    """Notes every matrix product that is taken inside, backward passes included, by shapes and layouts."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.counts: Counter[str] = Counter()
        self._calls: dict[str, Callable[[], object]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS:
            self._note(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _note(self, func: Any, args: Any, kwargs: Any) -> None:
        left, right = [value for value in args if isinstance(value, Tensor)][-2:]
        self.operations += 2 * left.numel() * right.shape[-1]
        specs = tree_map(_spec, (args, kwargs))
        key = f"{func} {specs}"
        self.counts[key] += 1
        if key not in self._calls:
            again = tree_map(lambda value: value() if isinstance(value, Operand) else value, specs)
            self._calls[key] = lambda: func(*again[0], **again[1])

    def seconds_alone(self) -> float:
        """What all of them take one after another with nothing between them, of random operands."""
        return sum(count * _median_seconds(self._calls[key]) for key, count in self.counts.items())


class Operand:
    """Shape, layout and type of a tensor; called, a random one of them."""

    def __init__(self, value: Tensor) -> None:
        self._like = (tuple(value.shape), value.stride(), value.dtype)

    def __repr__(self) -> str:
        return str(self._like)

    def __call__(self) -> Tensor:
        shape, stride, dtype = self._like
        return torch.empty_strided(shape, stride, dtype=dtype).normal_()


def _spec(value: object) -> object:
    return Operand(value) if isinstance(value, Tensor) else value


def _median_seconds(work: Callable[[], object], times: int = 3) -> float:
    work()
    return statistics.median(seconds(work) for _ in range(times))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def matrix_rate(tokens: int, width: int) -> float:
    """bf16 operations a second of [tokens, width] x [width, 4 width], the best of three."""
    x = torch.randn(tokens, width).bfloat16()
    weight = torch.randn(4 * width, width).bfloat16()
    best = min(seconds(lambda: torch.nn.functional.linear(x, weight)) for _ in range(3))
    return 2 * tokens * width * 4 * width / best
