"""Two processes on their shares of a batch train as one process does on the joint batch."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing

from safeclip.encoders.load import Encoder
from safeclip.training.distributed import ALONE, Ranks, init_distributed
from safeclip.training.loop import batch_rows
from safeclip.training.rows import Rows
from safeclip.training.step import Student
from tests.training.train_tiny import RECIPE

STEPS, BATCH = 3, 7  # shares of four and three rows
LABELS = {
    "mixed": (
        [True, False, True, True, False, True, True] * 4,
        [False, True, True, False, True, True, False] * 4,
    ),
    "one rank holds every unsafe row": (None, None),
    "nothing is unsafe": ([False] * 28, [False] * 28),
}


def labelled(rows: Rows, labels) -> Rows:
    """The rows with these labels; None: unsafe are those that come first in the first batch."""
    text, image = labels
    if text is None:
        first = set(batch_rows(len(rows), BATCH, 0, seed=0)[:4].tolist())
        text = image = [row in first for row in range(len(rows))]
    return dataclasses.replace(
        rows,
        text_unsafe=torch.tensor(text[: len(rows)]),
        image_unsafe=torch.tensor(image[: len(rows)]),
    )


def train(encoder: Encoder, rows: Rows, objective: str, ranks: Ranks) -> dict:
    """Gradients of the first step and the factors after three, by rank."""
    recipe = RECIPE.model_copy(
        update={"objective": objective, "batch_size": BATCH, "precision": "float32", "learning_rate": 1e-3}
    )
    student = Student(encoder, recipe, seed=0, ranks=ranks)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # away from the teacher, where gradients are rounding errors that Adam makes big
        for parameter in student.parameters.values():
            parameter.normal_(std=0.1, generator=generator)
    first, history = {}, []
    for step in range(STEPS):
        history.append(student.train_step(rows, batch_rows(len(rows), BATCH, step, seed=0), step))
        first = first or {name: value.grad.clone() for name, value in student.parameters.items()}
    return {"first": first, "factors": student.factors(), "history": history}


def one_rank(rank: int, port: int, arguments: tuple, folder: Path) -> None:
    place = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": 2,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in place.items()})
    torch.set_num_threads(1)
    with init_distributed() as ranks:
        torch.save(train(*arguments, ranks), folder / f"{rank}.pt")


def in_two_processes(arguments: tuple, folder: Path) -> list[dict]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # forked: the children need no second import of torch
    context = multiprocessing.start_processes(
        one_rank, (port, arguments, folder), nprocs=2, join=False, start_method="fork"
    )
    while not context.join(timeout=120):
        pass
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("objective", ["opposed", "shield_clip"])
@pytest.mark.parametrize("labels", LABELS)
def test_two_processes_equal_one_on_the_joint_batch(encoder, splits, tmp_path, objective, labels):
    rows = labelled(splits[0], LABELS[labels])
    arguments = (encoder, rows, objective)
    alone = train(*arguments, ALONE)
    both = in_two_processes(arguments, tmp_path)
    for name, gradient in alone["first"].items():
        for rank in both:
            assert torch.allclose(rank["first"][name], gradient, atol=1e-5, rtol=1e-5)
            assert torch.allclose(rank["factors"][name], alone["factors"][name], atol=1e-5)
    assert all(torch.equal(both[0]["factors"][name], both[1]["factors"][name]) for name in alone["factors"])
    assert [row["total_loss"] for row in both[0]["history"]] == pytest.approx(
        [row["total_loss"] for row in alone["history"]], rel=1e-5, abs=1e-5
    )


def test_shares_cover_a_batch_in_order():
    rows = torch.arange(7)
    shares = [Ranks(rank, 3).share(rows) for rank in range(3)]
    assert [len(share) for share in shares] == [3, 2, 2]
    assert torch.equal(torch.cat(shares), rows)
