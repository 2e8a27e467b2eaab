"""The bound on a request's body holds for declared and for chunked bodies."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from safeclip.serving.middleware import BodyLimit


async def echo_length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


APP = BodyLimit(Starlette(routes=[Route("/length", echo_length, methods=["POST"])]), max_bytes=100)


def send(method: str, path: str, content: bytes | AsyncIterator[bytes] | None = None) -> httpx.Response:
    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app=APP)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.request(method, path, content=content)

    return asyncio.run(call())


async def chunks(total: int) -> AsyncIterator[bytes]:
    for _ in range(total // 10):
        yield b"x" * 10


@pytest.mark.parametrize("size", [0, 1, 100])
def test_bodies_up_to_the_limit_pass(size: int) -> None:
    assert send("POST", "/length", b"x" * size).text == str(size)


def test_a_declared_body_over_the_limit_is_413() -> None:
    answer = send("POST", "/length", b"x" * 101)
    assert (answer.status_code, "100 bytes" in answer.text) == (413, True)


def test_a_chunked_body_over_the_limit_is_413() -> None:
    assert send("POST", "/length", chunks(110)).status_code == 413


def test_a_chunked_body_within_the_limit_passes() -> None:
    assert send("POST", "/length", chunks(100)).text == "100"


def test_the_front_page_is_ours_and_loads_nothing() -> None:
    page = send("GET", "/")
    assert page.status_code == 200
    assert "http" not in page.text
    assert "/encode_text" in page.text
