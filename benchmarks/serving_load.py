"""Clients that cost little themselves: raw HTTP over kept connections, so that the server's time shows."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import psutil
from PIL import Image, ImageFilter

from picturebook.drawing import draw

WORDS = ("dog", "cat", "house", "river", "bicycle", "apple", "boat", "tree", "horse", "lamp", "chair", "cake")
Body = Callable[[int], tuple[str, bytes]]


@dataclass
class Load:
    """What one burst of load measured."""

    seconds: float
    cpu_seconds: float
    latencies: list[float] = field(default_factory=list)
    errors: int = 0
    statuses: dict[int, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Answers (200) a second."""
        return len(self.latencies) / self.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU time of the server's processes a request."""
        return 1000 * self.cpu_seconds / max(1, len(self.latencies))

    def percentile(self, percent: int) -> float:
        """Milliseconds."""
        return float(np.percentile(self.latencies, percent) * 1000) if self.latencies else float("inf")


class Side:
    """One server: its port, its processes and how it wants its requests."""

    def __init__(self, port: int, pid: int, body: Callable[[str, int], tuple[str, bytes]]) -> None:
        self.port, self.pid, self.body = port, pid, body

    def load(self, kind: str, clients: int, seconds: float) -> Load:
        """Keep `clients` busy for `seconds` after a short lead-in."""
        asyncio.run(burst(self, lambda turn: self.body(kind, turn), clients, min(1.0, seconds / 4)))
        return asyncio.run(burst(self, lambda turn: self.body(kind, turn), clients, seconds))

    def cpu_seconds(self) -> float:
        """Of the server and its children so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes())

    def memory_mb(self) -> float:
        """Resident, all processes."""
        return sum(process.memory_info().rss for process in self._processes()) / 1e6

    def _processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self.pid)
        return [parent, *parent.children(recursive=True)]


async def burst(side: Side, body: Body, clients: int, seconds: float) -> Load:
    """Closed loop: each client sends its next request when it has its answer."""
    load = Load(seconds, side.cpu_seconds())
    start = time.perf_counter()
    await asyncio.gather(
        *(_client(side.port, body, number, start + seconds, load) for number in range(clients))
    )
    load.seconds = time.perf_counter() - start
    load.cpu_seconds = side.cpu_seconds() - load.cpu_seconds
    return load


async def _client(port: int, body: Body, number: int, until: float, load: Load) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    turn = number
    while (sent := time.perf_counter()) < until:
        status = 0
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
            status = await _exchange(reader, writer, *body(turn))
        load.statuses[status] = load.statuses.get(status, 0) + 1
        if status == 200:
            load.latencies.append(time.perf_counter() - sent)
        else:
            load.errors += 1
        if not status:
            writer.close()
            await asyncio.sleep(0.2)
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        turn += 97
    writer.close()


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: bytes
) -> int:
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    if b"content-length:" not in answer.lower():
        raise ValueError(f"no length in {answer!r}")
    length = answer.lower().split(b"content-length:")[1].split(b"\r\n")[0]
    await reader.readexactly(int(length))
    return int(answer.split(b" ", 2)[1])


def caption(turn: int) -> str:
    """One of 1,728 captions of nine words."""
    first, second, third = (WORDS[turn // 12**place % 12] for place in range(3))
    return f"a {first} and a {second} next to a {third}"


@cache
def photo(turn: int) -> bytes:
    """A JPEG of 400 x 300 with the smoothness of a photograph."""
    noise = np.random.default_rng(turn).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).filter(ImageFilter.GaussianBlur(6)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


@cache
def encoded_photo(turn: int) -> str:
    """Base64 of one of sixteen photos."""
    return base64.b64encode(photo(turn % 16)).decode()


def mixed_load(side: Side, seconds: float) -> dict[str, object]:
    """All routes, good and bad requests, 16 clients; what was lost and how memory moved.

    Lost: an answer that is neither 200 nor the 400 that a bad request deserves.
    """
    memory, statuses, asked = [side.memory_mb()], dict[int, int](), 0
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        load = asyncio.run(burst(side, _mixed, 16, min(15.0, max(1.0, until - time.perf_counter()))))
        for status, count in load.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
            asked += count
        memory.append(side.memory_mb())
    lost = sum(count for status, count in statuses.items() if status not in (200, 400))
    warm = memory[1 : 1 + max(1, len(memory) // 4)]
    return {
        "mixed_requests": asked,
        "mixed_errors": lost,
        "mixed_seconds": seconds,
        "mixed_memory_mb": memory,
        "mixed_memory_growth_mb": memory[-1] - statistics.median(warm),
        "mixed_statuses": {str(status): count for status, count in sorted(statuses.items())},
    }


@cache
def _scene(turn: int) -> str:
    return base64.b64encode(draw(caption(turn), "photo", seed=turn).png).decode()


def _mixed(turn: int) -> tuple[str, bytes]:
    item = {"text": caption(turn)} if turn % 2 else {"image": _scene(turn % 16)}
    kinds: list[tuple[str, object]] = [
        ("/encode_text", {"texts": [caption(turn + step) for step in range(1 + turn % 8)]}),
        ("/encode_image", {"images": [_scene(turn % 16)]}),
        ("/rank", {"query": item, "items": [{"text": caption(turn + step)} for step in range(5)]}),
        ("/score", {"items": [item]}),
        ("/encode_text", {"texts": [""]}),
        ("/encode_image", {"images": ["bm8gcGljdHVyZQ=="]}),
    ]
    path, body = kinds[turn % len(kinds)]
    return path, json.dumps(body).encode()
