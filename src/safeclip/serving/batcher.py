"""Micro-batching without added latency: what arrives while the model is busy goes into its next batch.

Items are checked before they come here. The queue is bounded by the seconds of work in it, estimated from
what items have cost so far, so that one bound fits any encoder: over it a request is refused at once and can
be sent again, instead of waiting for an answer that comes after its client has left.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
MAX_BATCH = 16
"""Of 32 clients that wait for their answers, 32 at a time would make batches of 31 and 1 by turns."""
SMOOTHING = 0.2
"""Weight of the newest batch in the estimated cost of an item."""


class Overloaded(Exception):
    """The queue holds more work than its bound; `retry_after` is in whole seconds."""

    def __init__(self, seconds: float) -> None:
        self.retry_after = max(1, math.ceil(seconds))
        super().__init__(f"too much work is waiting; send it again in {self.retry_after} s")


class Backlog:
    """The seconds of work that wait in all batchers together, at most `max_seconds`."""

    def __init__(self, max_seconds: float) -> None:
        self.max_seconds = max_seconds
        self.batchers: list[MicroBatcher[Any]] = []

    @property
    def seconds(self) -> float:
        """Estimated time until everything that waits is done."""
        return sum(batcher.waiting * batcher.cost for batcher in self.batchers)

    def admit(self, more: float) -> None:
        """Raise `Overloaded` if `more` seconds do not fit; a request alone in the queue always does."""
        waiting = self.seconds
        if waiting and waiting + more > self.max_seconds:
            raise Overloaded(waiting)


class MicroBatcher(Generic[Item]):
    """Runs `run` on up to `max_batch` items at a time in `pool`, in the order they came.

    `run` maps N items to N results; a result that is an exception is raised to the one who sent that item. If
    `run` itself raises, its items are run one by one, so that the fault meets only the request it belongs to.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Any]],
        pool: Executor,
        backlog: Backlog,
        *,
        max_batch: int = MAX_BATCH,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._run, self._pool, self._backlog, self._observe = run, pool, backlog, observe
        self._max_batch = max_batch
        self._queue: deque[tuple[Item, asyncio.Future[Any]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._running = 0
        self.cost = 0.0  # seconds an item
        backlog.batchers.append(self)

    @property
    def waiting(self) -> int:
        """Items queued or being run."""
        return len(self._queue) + self._running

    async def __call__(self, items: Sequence[Item]) -> list[Any]:
        """Results in the order of `items`; `Overloaded`, before anything is queued, if they do not fit."""
        self._backlog.admit(len(items) * self.cost)
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in items]
        self._queue.extend(zip(items, futures, strict=True))
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        try:
            return await asyncio.gather(*futures)
        finally:
            for future in futures:  # after a fault or a timeout nobody waits for the rest
                future.cancel()

    async def _work(self) -> None:
        try:
            while batch := self._next_batch():
                self._running = len(batch)
                await self._run_batch(batch)
        finally:
            self._running, self._worker = 0, None

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Any]]]:
        """The next items whose requests still wait: one that timed out has cancelled its own."""
        batch: list[tuple[Item, asyncio.Future[Any]]] = []
        while self._queue and len(batch) < self._max_batch:
            entry = self._queue.popleft()
            if not entry[1].done():
                batch.append(entry)
        return batch

    async def _run_batch(self, batch: list[tuple[Item, asyncio.Future[Any]]]) -> None:
        start = time.perf_counter()
        for (_, future), result in zip(batch, await self._results(batch), strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        seconds = (time.perf_counter() - start) / len(batch)
        self.cost += (seconds - self.cost) * (SMOOTHING if self.cost else 1.0)
        self._observe(len(batch))

    async def _results(self, batch: list[tuple[Item, asyncio.Future[Any]]]) -> Sequence[Any]:
        items = [item for item, _ in batch]
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, self._run, items)
        except Exception as error:
            if len(items) == 1:
                return [error]
            return [(await self._results([entry]))[0] for entry in batch]
