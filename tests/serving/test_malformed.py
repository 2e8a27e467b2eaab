"""Thousands of malformed requests: each is refused as such, none is a fault of the server, memory stays."""

import asyncio
import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Iterator

import httpx
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from PIL import Image

from picturebook.drawing import draw

pytestmark = pytest.mark.servers
ROUTES = ("encode_text", "encode_image", "rank", "search", "score")
MANY = 2000
GROWTH_MB = 150
PNG = draw("a dog near a house", "photo", seed=1).png


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes whose header promises width x height pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 10**6))
        + chunk(b"IEND", b"")
    )


def text_bomb() -> bytes:
    """A PNG with a compressed comment of 200 MB."""
    comment = b"a\0\0" + zlib.compress(b"\0" * 200_000_000, 9)
    return PNG[:33] + chunk(b"zTXt", comment) + PNG[33:]


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(buffer, "JPEG")
    return buffer.getvalue()


def bad_images() -> dict[str, bytes]:
    return {
        "empty": b"",
        "truncated png": PNG[: len(PNG) // 2],
        "truncated jpeg": jpeg()[:150],
        "png header alone": PNG[:33],
        "script": b"#!/bin/sh\necho hi\n",
        "html in a png name": b"\x89PNG\r\n\x1a\n<script>alert(1)</script>",
        "zip before": b"PK\x03\x04" + PNG,
        "pdf": b"%PDF-1.7\n%%EOF",
        "svg with a link": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:1/"/></svg>',
        "pixel bomb": bomb(50_000, 50_000),
        "int overflow": bomb(2**31 - 1, 2**31 - 1),
        "no width": bomb(0, 10),
        "strip": bomb(15_000_000, 1),
        "comment bomb": text_bomb(),
        "gif": b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    }


def bodies() -> Iterator[tuple[str, bytes]]:
    """(route, body): bytes that are not JSON, JSON of the wrong shape, values out of bounds."""
    deep = b"[" * 100_000 + b"]" * 100_000
    raw = [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"a"',
        b"NaN",
        b"\xff\xfe",
        b"\0",
        b'{"texts": NaN}',
        deep,
        b'{"a":' * 5000,
    ]
    raw += [
        b'{"texts": ["\\ud800"]}',
        b'{"texts": [1e999]}',
        b'{"texts": ["a"], "texts": 3}',
        b'{"texts": ["a"]} x',
    ]
    yield from ((route, body) for route in ROUTES for body in raw)
    wrong = [
        None,
        True,
        3,
        -1,
        1.5,
        10**40,
        "",
        "a",
        [],
        [None],
        [[]],
        {},
        {"a": 1},
        ["a"] * 65,
        ["x" * 1001],
    ]
    fields = {
        "encode_text": ["texts"],
        "encode_image": ["images"],
        "rank": ["query", "items"],
        "search": ["query", "k", "with_base"],
        "score": ["items"],
    }
    good = {
        "query": {"text": "a"},
        "items": [{"text": "a"}],
        "k": 3,
        "texts": [],
        "images": [],
        "with_base": False,
    }
    right = [("k", 3), ("with_base", True)]  # what is wrong elsewhere and right here
    for route, names in fields.items():
        for name in names:
            for value in (value for value in wrong if (name, value) not in right):
                body = {other: good[other] for other in names if other != name} | {name: value}
                yield route, json.dumps(body).encode()
    for data in bad_images().values():
        yield "encode_image", json.dumps({"images": [b64(data)]}).encode()
        yield "score", json.dumps({"items": [{"image": b64(data)}]}).encode()


def scrambled(count: int) -> Iterator[tuple[str, bytes]]:
    """Good bodies with a few bytes changed, cut or doubled."""
    chance = random.Random(7)
    good = [
        ("encode_text", {"texts": ["a dog", "a cat"]}),
        ("encode_image", {"images": [b64(PNG)]}),
        ("rank", {"query": {"text": "a dog"}, "items": [{"image": b64(PNG)}]}),
        ("score", {"items": [{"text": "a dog"}]}),
    ]
    for turn in range(count):
        route, value = good[turn % len(good)]
        body = bytearray(json.dumps(value).encode())
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(body))
            body[at : at + chance.randint(0, 8)] = chance.randbytes(chance.randint(0, 8))
        yield route, bytes(body)


def answers(url: str, requests: list[tuple[str, bytes]], headers: dict[str, str]) -> list[int]:
    async def all_of_them() -> list[int]:
        limits = httpx.Limits(max_connections=8)
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
            sent = (client.post(f"/{route}", content=body, headers=headers) for route, body in requests)
            return [answer.status_code for answer in await asyncio.gather(*sent)]

    return asyncio.run(all_of_them())


def worker_memory_mb(url: str) -> float:
    """The largest resident memory of the processes behind the port (worker and supervisor)."""
    port = int(url.rsplit(":", 1)[1])
    listening = [c.pid for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port and c.pid]
    return max(psutil.Process(pid).memory_info().rss for pid in set(listening)) / 1e6


def test_hand_made_requests_are_all_refused(service: str) -> None:
    requests = list(bodies())
    before = worker_memory_mb(service)
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
        found = answers(service, requests, {"content-type": kind})
        faults = [(route, body[:80], code) for (route, body), code in zip(requests, found, strict=True)
                  if code not in (400, 413, 429)]  # fmt: skip
        assert faults == []
    assert worker_memory_mb(service) < before + GROWTH_MB


def test_pickles_are_never_read(service: str) -> None:
    kind = {"content-type": "application/vnd.bentoml+pickle"}
    assert answers(service, [("encode_text", b"cos\nsystem\n(S'true'\ntR.")], kind) == [415]


def test_scrambled_requests_are_never_a_fault_of_the_server(service: str) -> None:
    found = answers(service, list(scrambled(MANY)), {"content-type": "application/json"})
    assert {code for code in found if code >= 500} == set()
    assert found.count(400) > MANY // 2


def test_scrambled_forms_are_never_a_fault_of_the_server(service: str) -> None:
    chance = random.Random(9)
    part = (
        b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
        + PNG
        + b"\r\n--b--\r\n"
    )
    requests = []
    for _ in range(300):
        body = bytearray(part)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(body))
            body[at : at + chance.randint(0, 8)] = chance.randbytes(chance.randint(0, 8))
        requests.append(("encode_image", bytes(body)))
    found = answers(service, requests, {"content-type": "multipart/form-data; boundary=b"})
    assert {code for code in found if code >= 500} == set()


def test_unicode_of_every_kind_is_embedded_or_refused(service: str) -> None:
    texts = [
        "\u202e",
        "\u0000",
        "👩‍👩‍👧‍👦",
        "ﷺ" * 1000,
        "e" + "\u0301" * 900,
        "\uffff",
        "🏳️‍🌈",
        "а" * 1000,
        " ",
        "\t",
    ]
    requests = [("encode_text", json.dumps({"texts": [text]}).encode()) for text in texts]
    assert set(answers(service, requests, {"content-type": "application/json"})) <= {200, 400}


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_requests_made_from_the_openapi_document_keep_its_promises(service: str, mode) -> None:
    document = httpx.get(f"{service}/openapi.json", timeout=30).json()
    document["paths"] = {path: item for path, item in document["paths"].items() if "post" in item}
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=service)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert {operation.path for operation in operations} == set(document["paths"])
    for operation in operations:
        _check(operation, mode)


def _check(operation, mode) -> None:
    promised = {*operation.definition.raw["responses"], "404", "405", "415"}

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(case=operation.as_strategy(generation_mode=mode))
    def keeps_its_promises(case) -> None:
        answer = case.call(timeout=60)
        assert answer.status_code < 500, answer.text
        assert str(answer.status_code) in promised

    keeps_its_promises()
