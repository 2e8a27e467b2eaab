"""Processes that train one model together (torchrun), each on its share of every batch.

Every rank computes the loss of the joint batch from everybody's embeddings and sends only its own rows'
gradients through the towers; the sum of the ranks' gradients is then the joint batch's, exactly, whatever
label states each rank holds. Adapters are small, so one sum a step is all that is worth exchanging.
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
    """This process's place among `count`; alone by default, when nothing is exchanged."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # on this machine
    machine: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that validates and writes."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This rank's part of a batch's rows [B]: as even as can be, in order, together all of them."""
        return rows.tensor_split(self.count)[self.rank]

    def gather(self, own: Tensor, total: int) -> Tensor:
        """Everybody's shares [b_r, ...] of `total` rows -> [total, ...], in the order of the batch."""
        if self.count == 1:
            return own
        sizes = [len(part) for part in torch.arange(total).tensor_split(self.count)]
        padded = own.new_zeros(max(sizes), *own.shape[1:])  # a collective wants equal shapes
        padded[: len(own)] = own
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
        """What the leading rank passes here, on every rank."""
        if self.count == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Until every rank is here."""
        if self.count > 1:
            distributed.barrier()


ALONE = Ranks()


@contextmanager
def init_distributed() -> Iterator[Ranks]:
    """Join the group that torchrun's variables describe while the block lasts; alone without them."""
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
