"""Micro-batching: full batches under load, refusal when too much waits, and no fault shared."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from safeclip.serving.batcher import Backlog, MicroBatcher, Overloaded


class Doubler:
    """A model that takes `seconds` a batch, records the batches and cannot stand a `None`."""

    def __init__(self, seconds: float = 0.02) -> None:
        self.seconds, self.batches = seconds, list[list[int]]()
        self.seen_at_once = threading.Semaphore(1)

    def __call__(self, items: list[int]) -> list[int]:
        assert self.seen_at_once.acquire(blocking=False), "two batches ran at once"
        time.sleep(self.seconds)
        self.batches.append(items)
        self.seen_at_once.release()
        return [2 * item for item in items]


def batched(
    run: Callable[[list], Sequence], body: Callable[[MicroBatcher], Awaitable], max_seconds: float = 60.0
):
    async def session():
        with ThreadPoolExecutor(1) as pool:
            return await body(MicroBatcher(run, pool, Backlog(max_seconds), max_batch=8))

    return asyncio.run(session())


def test_what_arrives_while_the_model_is_busy_is_one_batch() -> None:
    model = Doubler()

    async def body(batcher: MicroBatcher):
        first = asyncio.create_task(batcher([0]))
        await asyncio.sleep(0.005)
        return await asyncio.gather(first, *(batcher([n]) for n in range(1, 12)))

    assert batched(model, body) == [[2 * n] for n in range(12)]
    assert [len(batch) for batch in model.batches] == [1, 8, 3]


def test_a_request_larger_than_a_batch_keeps_its_order() -> None:
    assert batched(Doubler(0), lambda batcher: batcher(range(20))) == [2 * n for n in range(20)]


def test_a_fault_meets_only_the_request_it_belongs_to() -> None:
    async def body(batcher: MicroBatcher):
        return await asyncio.gather(*(batcher([n]) for n in (1, None, 3)), return_exceptions=True)

    one, fault, three = batched(Doubler(), body)
    assert (one, three) == ([2], [6])
    assert isinstance(fault, TypeError)


def test_a_result_that_is_an_exception_is_raised_to_its_sender() -> None:
    def run(items: list[int]) -> list:
        return [ValueError("odd") if n % 2 else n for n in items]

    async def body(batcher: MicroBatcher):
        return await asyncio.gather(batcher([2]), batcher([3]), return_exceptions=True)

    even, odd = batched(run, body)
    assert even == [2]
    assert isinstance(odd, ValueError)


def test_too_much_waiting_work_is_refused_at_once_and_taken_later() -> None:
    async def body(batcher: MicroBatcher):
        await batcher([0])  # learns that an item costs about 50 ms
        waiting = [asyncio.create_task(batcher([n])) for n in range(3)]
        await asyncio.sleep(0.01)
        start = time.perf_counter()
        with pytest.raises(Overloaded) as refused:
            await batcher(list(range(8)))
        assert time.perf_counter() - start < 0.02
        assert refused.value.retry_after >= 1
        await asyncio.gather(*waiting)
        return await batcher([5])

    assert batched(Doubler(0.05), body, max_seconds=0.2) == [10]


def test_a_request_that_left_is_not_run() -> None:
    model = Doubler()

    async def body(batcher: MicroBatcher):
        first = asyncio.create_task(batcher([0]))
        await asyncio.sleep(0.005)
        left = asyncio.create_task(batcher([1]))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.gather(first, batcher([2]), left, return_exceptions=True)

    batched(model, body)
    assert model.batches == [[0], [2]]
