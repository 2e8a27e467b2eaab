"""Train one model in several processes (torchrun), each on its share of every batch.

Every rank computes the loss of the joint batch from the embeddings of all ranks, and sends only its own
rows' gradients through the towers. The sum of the ranks' gradients is then exactly the joint batch's,
whatever label states each rank holds. Adapters are small, so one sum a step is all that is worth exchanging.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """This process's place among `count` processes. By default it is alone and exchanges nothing.

    local_rank counts the processes of this machine, machine the machines.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    machine: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process validates and writes."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """Return this rank's part of a batch's rows [B]. The parts differ by one row at most, in order."""
        return rows.tensor_split(self.count)[self.rank]

    def gather(self, local: Tensor, total: int) -> Tensor:
        """Join the ranks' shares [b_r, ...] of `total` rows: [total, ...], in the order of the batch."""
        if self.count == 1:
            return local
        sizes = [len(part) for part in torch.arange(total).tensor_split(self.count)]
        # all_gather wants equal shapes
        padded = local.new_zeros(max(sizes), *local.shape[1:])
        padded[: len(local)] = local
        parts = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each parameter's gradient by its sum over the ranks."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def broadcast(self, value: Value) -> Value:
        """Return on every rank what the main one passes."""
        if self.count == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.count > 1:
            distributed.barrier()


ALONE = Ranks()


@contextmanager
def init_distributed() -> Iterator[Ranks]:
    """Join the process group that torchrun's variables describe, for the block; `ALONE` without them."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(distributed.get_rank(), count, local_rank, int(os.environ.get("GROUP_RANK", "0")))
    finally:
        distributed.destroy_process_group()
