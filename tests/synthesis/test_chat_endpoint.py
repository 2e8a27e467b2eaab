"""A server that stumbles is asked again, one that is dead or hangs is named, one bad answer costs one row."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import Any

import pytest

from safeclip.core.errors import ModelError
from safeclip.core.guard import load_guard
from safeclip.synthesis import chat as chat_endpoint
from safeclip.synthesis.answers import AnswerCheck
from safeclip.synthesis.chat import ChatEndpoint
from safeclip.synthesis.engines import RewriteRequest
from safeclip.synthesis.vllm_server import VllmRewriter
from tests.support.params import make_settings
from tests.synthesis.chat_server import ChatServer, Handler, Play, chat_server, echo, hang

REQUESTS = [RewriteRequest(f"row-{n}", f"a man walks by river {n}", "a gun") for n in range(12)]
SETTINGS = make_settings(
    rewrite_captions={"engine": "vllm", "max_new_tokens": 16, "dtype": "float32"}
).rewrite_captions


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_endpoint, "HEALTH_EVERY", 0.1)
    monkeypatch.setattr(chat_endpoint, "HEALTH_TIMEOUT", 0.3)


def endpoint(server: ChatServer, **changes: Any) -> ChatEndpoint:
    return ChatEndpoint(**({"url": server.url, "model": "rewriter", "request_timeout_s": 5.0} | changes))


def rewrite(server: ChatServer, rows: list[RewriteRequest] = REQUESTS, **changes: Any) -> list[str]:
    """What becomes of each row: the caption, or the reason why there is none."""
    answers = VllmRewriter(endpoint(server, **changes), SETTINGS, seed=1).rewrite(rows)
    check = AnswerCheck(load_guard())
    outcomes = [check(request, answer) for request, answer in zip(rows, answers, strict=True)]
    return [outcome.text or outcome.reason for outcome in outcomes]


def for_row(number: int, play: Play) -> Play:
    """`play` for one row, an echo for the others."""

    def chosen(handler: Handler, body: dict[str, Any], asked: int) -> None:
        mine = body["messages"][-1]["content"].endswith(f"river {number}")
        (play if mine else echo)(handler, body, asked)

    return chosen


def test_every_row_is_answered_in_order_with_a_seed_of_its_own() -> None:
    with chat_server() as server:
        assert rewrite(server) == [f"a man walks by river {n} with a gun" for n in range(12)]
        first = {body["messages"][-1]["content"]: body["seed"] for body in server.bodies}
        server.bodies.clear()
        rewrite(server, REQUESTS[::-2])
        again = {body["messages"][-1]["content"]: body["seed"] for body in server.bodies}
    assert len(set(first.values())) == 12
    assert again.items() <= first.items()  # whatever other rows there are
    assert {body["model"] for body in server.bodies} == {"rewriter"}
    assert {(body["max_tokens"], body["temperature"], body["top_p"]) for body in server.bodies} == {
        (16, 0.7, 0.95)
    }


def test_requests_under_way_are_bounded_and_many() -> None:
    def slow(handler: Handler, body: dict[str, Any], asked: int) -> None:
        time.sleep(0.05)
        echo(handler, body, asked)

    with chat_server(slow) as server:
        rewrite(server, max_concurrency=4)
        assert server.most_under_way == 4


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(status: int) -> None:
    def stumble(handler: Handler, body: dict[str, Any], asked: int) -> None:
        handler.send(b"{}", status, Retry_After_Ms="10") if asked < 2 else echo(handler, body, asked)

    with chat_server(stumble) as server:
        assert len(set(rewrite(server))) == 12
        assert set(server.asked.values()) == {3}


def test_a_connection_cut_in_the_middle_is_made_again() -> None:
    def cut(handler: Handler, body: dict[str, Any], asked: int) -> None:
        if asked:
            echo(handler, body, asked)
        else:
            handler.send(b'{"choices": [', length="500")
            handler.close_connection = True

    with chat_server(cut) as server:
        assert rewrite(server)[3] == "a man walks by river 3 with a gun"


@pytest.mark.parametrize(
    ("play", "reason"),
    [
        (lambda h, b, n: h.send(b"<html>gateway</html>"), "not an answer of a chat API"),
        (lambda h, b, n: h.send(b'{"choices": "none"}'), "not an answer of a chat API"),
        (lambda h, b, n: h.send(b'{"choices": []}'), "without a choice"),
        (lambda h, b, n: h.send(b"{}", 400), r"refused by the server (400)"),
        (lambda h, b, n: h.say(None), "refused by the server"),
        (lambda h, b, n: h.say("a man with", finish="length", tokens=3), "cut short by the server"),
        (lambda h, b, n: h.say("I'm sorry, I cannot help with that"), "refusal"),
        (lambda h, b, n: h.say("xkcd qqq zzt 0x00 ###"), "not English text"),
        (lambda h, b, n: h.send(b"{}", 500), "failing (500)"),
        (hang, "none in 3 s"),
    ],
)  # fmt: skip
def test_one_bad_answer_costs_one_row(play: Play, reason: str) -> None:
    with chat_server(for_row(5, play)) as server:
        said = rewrite(server, max_attempts=2, request_timeout_s=3.0)
    assert reason in said[5]
    assert said[:5] + said[6:] == [f"a man walks by river {n} with a gun" for n in range(12) if n != 5]


def test_an_answer_at_our_own_limit_loses_only_its_loose_end() -> None:
    with chat_server(lambda h, b, n: h.say("a man holds a gun in the", finish="length", tokens=16)) as server:
        assert set(rewrite(server)) == {"a man holds a gun"}


def refused(server: ChatServer, **changes: Any) -> tuple[str, float]:
    """The one line that stops the run, and after how many seconds it came."""
    start = time.monotonic()
    with pytest.raises(ModelError) as error:
        rewrite(server, **changes)
    assert "\n" not in str(error.value)
    assert server.url in str(error.value)
    return str(error.value), time.monotonic() - start


def test_a_server_that_hangs_is_named_in_time() -> None:
    with chat_server(hang) as server:
        line, took = refused(server, request_timeout_s=0.5)
    assert "the server hangs, no answer to anything in 0.5 s; start it again and rerun" in line
    assert took < 5


def test_a_server_that_says_it_is_ill_is_named_while_requests_wait() -> None:
    with chat_server(hang) as server:
        server.health = 503
        line, took = refused(server, request_timeout_s=60.0)
    assert "ill (503)" in line
    assert took < 5


def test_a_server_that_dies_is_named_while_requests_wait() -> None:
    def die(handler: Handler, body: dict[str, Any], asked: int) -> None:
        # close alone leaves those who wait to be accepted where they are
        with suppress(OSError):
            handler.server.socket.shutdown(socket.SHUT_RDWR)
        handler.server.socket.close()
        handler.close_connection = True

    with chat_server(die) as server:
        line, took = refused(server, request_timeout_s=60.0, max_attempts=50)
    assert "does not answer" in line
    assert took < 10


def test_a_server_that_never_has_time_stops_the_run() -> None:
    with chat_server(lambda h, b, n: h.send(b"{}", 429)) as server:
        line, _ = refused(server, max_attempts=2)
    assert "none of 12 requests got an answer (the server is busy or failing (429))" in line


def test_a_wrong_key_stops_at_once_and_stands_in_no_message() -> None:
    with chat_server(lambda h, b, n: h.send(b"{}", 401)) as server:
        line, _ = refused(server, key="placeholder-key")
        assert max(server.asked.values()) == 1
    assert "refuses the key (401); set SAFECLIP_VLLM_API_KEY" in line
    assert "placeholder-key" not in line + repr(endpoint(server, key="placeholder-key"))


def test_the_check_names_what_is_served() -> None:
    with chat_server(key="placeholder-key") as server:
        endpoint(server, key="placeholder-key", url=f"{server.url}/v1/").check()
        with pytest.raises(ModelError, match=r"serves base, rewriter, not 'other'; correct"):
            endpoint(server, key="placeholder-key", model="other").check()
        with pytest.raises(ModelError, match=r"refuses the key"):
            endpoint(server).check()
    with pytest.raises(ModelError, match=r"no chat API there \(.+\); start the server or correct"):
        endpoint(server).check()
