"""Bounds on what is held at a time, tokens, and forms: before anything of a request is parsed."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from safeclip.serving.middleware import App, RequestLimits, TokenGate, Tokens
from safeclip.serving.multipart import Multipart
from safeclip.serving.observed import Observed

GOOD, OTHER = "a-token-of-24-characters", "another-token-of-some-length"


async def echo_length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


async def slow_length(request: Request) -> PlainTextResponse:
    size = len(await request.body())
    await asyncio.sleep(0.05)
    return PlainTextResponse(str(size))


async def echo_json(request: Request) -> JSONResponse:
    return JSONResponse(await request.json())


async def fail(request: Request) -> JSONResponse:
    return JSONResponse([{"error": "the reason"}], 400)


async def crash(request: Request) -> JSONResponse:
    raise RuntimeError("holds the secret that was sent")


ROUTES = [
    Route("/crash", crash),
    Route("/length", echo_length, methods=["POST"]),
    Route("/slow", slow_length, methods=["POST"]),
    Route("/json", echo_json, methods=["POST"]),
    Route("/fail", fail),
    Route("/livez", lambda request: PlainTextResponse("alive")),
]
PLAIN = Starlette(routes=ROUTES)


def send(app: App, *requests: tuple) -> list[httpx.Response]:
    """The answers to requests (method, path, options) sent at once."""

    async def call() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await asyncio.gather(
                *(client.request(method, path, **options) for method, path, options in requests)
            )

    return asyncio.run(call())


def post(app: App, path: str, **options) -> httpx.Response:
    return send(app, ("POST", path, options))[0]


async def chunks(total: int) -> AsyncIterator[bytes]:
    for _ in range(total // 10):
        yield b"x" * 10


SMALL = RequestLimits(PLAIN, max_bytes=100, max_total=250, max_requests=4)


@pytest.mark.parametrize("size", [0, 1, 100])
def test_bodies_up_to_the_limit_pass(size: int) -> None:
    assert post(SMALL, "/length", content=b"x" * size).text == str(size)
    assert post(SMALL, "/length", content=chunks(size)).text == str(size // 10 * 10)


@pytest.mark.parametrize("content", [b"x" * 101, chunks(110)], ids=["declared", "chunked"])
def test_a_body_over_the_limit_is_413(content) -> None:
    answer = post(SMALL, "/length", content=content)
    assert (answer.status_code, "100 bytes" in answer.json()["error"]) == (413, True)


@pytest.mark.parametrize("length", ["-1", "1e3", "²"])
def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    headers = [(b"content-length", length.encode("latin-1"))]
    assert post(SMALL, "/length", content=b"x", headers=headers).status_code == 413


@pytest.mark.parametrize(("count", "size"), [(8, 10), (4, 90)], ids=["requests", "bytes"])
def test_more_than_can_be_held_is_429_and_room_comes_back(count: int, size: int) -> None:
    answers = send(SMALL, *[("POST", "/slow", {"content": b"x" * size})] * count)
    codes = sorted(answer.status_code for answer in answers)
    assert codes[0] == 200
    assert codes[-1] == 429
    assert {answer.headers["retry-after"] for answer in answers if answer.status_code == 429} == {"1"}
    assert (SMALL.held_bytes, SMALL.held_requests) == (0, 0)
    assert post(SMALL, "/slow", content=b"x" * size).status_code == 200


def gate(environment: dict[str, str]) -> TokenGate:
    return TokenGate(PLAIN, Tokens(environment))


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {GOOD}", 200),
        (f"bearer {OTHER}", 200),
        ("Basic " + base64.b64encode(f"anyone:{GOOD}".encode()).decode(), 200),
        (f"Bearer {GOOD[:-1]}", 401),
        (f"Bearer {GOOD}x", 401),
        (GOOD, 401),
        ("Bearer", 401),
        ("Basic not-base64!", 401),
        ("Basic ÿ", 401),
        ("", 401),
    ],
)
def test_only_accepted_tokens_pass(authorization: str, status: int) -> None:
    headers = [(b"authorization", authorization.encode("latin-1"))]
    app = gate({"SAFECLIP_TOKENS": f"{GOOD}, {OTHER}"})
    assert post(app, "/length", content=b"x", headers=headers).status_code == status


def test_without_tokens_everything_is_open_and_with_them_health_still_is() -> None:
    assert post(gate({}), "/length", content=b"x").status_code == 200
    closed = gate({"SAFECLIP_TOKENS": GOOD})
    assert post(closed, "/length", content=b"x").status_code == 401
    assert send(closed, ("GET", "/livez", {}))[0].text == "alive"


def test_tokens_in_a_file_are_exchanged_without_a_restart(tmp_path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"{GOOD}  # the old one\n")
    tokens = Tokens({"SAFECLIP_TOKENS_FILE": str(path)})
    assert tokens.accept(f"Bearer {GOOD}")
    path.write_text(f"# new\n{OTHER}\n")
    assert tokens.accept(f"Bearer {OTHER}")
    assert not tokens.accept(f"Bearer {GOOD}")
    path.unlink()  # in the middle of an exchange
    assert tokens.accept(f"Bearer {OTHER}")


@pytest.mark.parametrize("environment", [{"SAFECLIP_TOKENS": ""}, {"SAFECLIP_TOKENS": "short"}])
def test_tokens_that_protect_nothing_refuse_to_start(environment: dict[str, str]) -> None:
    with pytest.raises(Exception, match="SAFECLIP_TOKENS: "):
        Tokens(environment)


def test_an_empty_or_missing_token_file_refuses_to_start(tmp_path) -> None:
    for path in (tmp_path / "missing", tmp_path / "empty"):
        (tmp_path / "empty").write_text("# nothing\n")
        with pytest.raises(Exception, match=r"cannot be read|holds no token"):
            Tokens({"SAFECLIP_TOKENS_FILE": str(path)})


def test_a_form_with_files_becomes_json() -> None:
    files = [("images", ("a.png", b"\x89PNG", "image/png")), ("images", ("b", b"x", "text/plain"))]
    answer = post(Multipart(PLAIN), "/json", files=files)
    assert answer.json() == {"images": [base64.b64encode(part).decode() for part in (b"\x89PNG", b"x")]}


def test_a_form_can_mix_texts_files_and_numbers() -> None:
    files = [("query", (None, "a dog")), ("items", ("a.png", b"x")), ("items", (None, "a cat"))]
    files.append(("k", (None, "3")))
    assert post(Multipart(PLAIN), "/json", files=files).json() == {
        "query": {"text": "a dog"},
        "items": [{"image": "eA=="}, {"text": "a cat"}],
        "k": 3,
    }


PART = b"--b\r\nContent-Disposition: form-data%s\r\n\r\n{\r\n--b--\r\n"


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"--b\r\nno header"),
        ("multipart/form-data; boundary=b", PART % b'; name="k"'),
        ("multipart/form-data; boundary=b", PART % b""),
    ],
)
def test_a_broken_form_is_400(kind: str, content: bytes) -> None:
    assert post(Multipart(PLAIN), "/json", content=content, headers={"content-type": kind}).status_code == 400


def test_too_many_parts_are_400() -> None:
    files = [("images", (f"{n}.png", b"x")) for n in range(200)]
    assert post(Multipart(PLAIN), "/json", files=files).status_code == 400


def test_the_log_holds_routes_and_never_content(caplog) -> None:
    app = Observed(PLAIN, ["/length"])
    with caplog.at_level("INFO", "safeclip.access"):
        send(app, ("POST", "/length?q=secret", {"content": b"secret"}), ("GET", "/secret-path", {}))
    lines = [json.loads(record.message) for record in caplog.records]
    assert sorted((line["route"], line["status"]) for line in lines) == [("/length", 200), ("other", 404)]
    assert "secret" not in caplog.text


def test_a_fault_of_ours_is_a_500_that_quotes_nothing(caplog) -> None:
    with caplog.at_level("INFO", "safeclip.access"):
        answer = send(Observed(PLAIN, []), ("GET", "/crash", {}))[0]
    assert (answer.status_code, list(answer.json())) == (500, ["error"])
    assert "RuntimeError" in caplog.text
    assert "secret" not in answer.text + caplog.text


def test_every_error_has_one_shape() -> None:
    app = Observed(PLAIN, [])
    answers = send(app, ("GET", "/fail", {}), ("GET", "/nowhere", {}), ("GET", "/length", {}))
    assert [list(answer.json()) for answer in answers] == [["error"]] * 3
    assert answers[0].json()["error"] == "the reason"
    assert answers[2].headers["allow"] == "POST"
