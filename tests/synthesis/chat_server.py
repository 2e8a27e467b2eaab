"""A real HTTP server with a chat API that does as a test tells it: answers, stumbles, hangs, babbles."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Play = Callable[["Handler", dict[str, Any], int], None]
"""What happens to a request: its handler, its body, and how often this conversation was asked before."""


class ChatServer(ThreadingHTTPServer):
    """Listens on the loopback; `play` answers the requests, `health` is the status of /health."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, play: Play, key: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.play, self.key, self.health = play, key, 200
        self.bodies: list[dict[str, Any]] = []
        self.asked: Counter[str] = Counter()
        self.under_way, self.most_under_way = 0, 0
        self.lock = threading.Lock()

    def handle_error(self, *_: object) -> None:
        """A client that gave up is no news."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        if self.path == "/health":
            self.send(b"", self.server.health)
        elif self.server.key and self.headers["Authorization"] != f"Bearer {self.server.key}":
            self.send(b"{}", 401)
        elif self.path == "/v1/models":
            self.send(json.dumps({"data": [{"id": "base"}, {"id": "rewriter"}]}).encode())
        else:
            self.send(b"{}", 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = body["messages"][-1]["content"]
        server = self.server
        with server.lock:
            server.bodies.append(body)
            server.asked[said] += 1
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            server.play(self, body, server.asked[said] - 1)
        finally:
            with server.lock:
                server.under_way -= 1

    def send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", headers.pop("length", str(len(content))))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def say(
        self,
        text: str | None,
        finish: str = "stop",
        tokens: int = 9,
        top_logprobs: dict[str, float] | None = None,
    ) -> None:
        """An answer in the API's form; `top_logprobs` are log-probabilities of its first token."""
        choice: dict[str, Any] = {
            "message": {"role": "assistant", "content": text},
            "finish_reason": finish,
        }
        if top_logprobs is not None:
            told = [{"token": token, "logprob": value} for token, value in top_logprobs.items()]
            choice["logprobs"] = {"content": [{"token": "x", "logprob": 0.0, "top_logprobs": told}]}
        self.send(json.dumps({"choices": [choice], "usage": {"completion_tokens": tokens}}).encode())


def echo(handler: Handler, body: dict[str, Any], asked: int) -> None:
    """Answers with the caption that was sent and a gun."""
    handler.say(body["messages"][-1]["content"].partition(": ")[2] + " with a gun")


def hang(handler: Handler, body: dict[str, Any], asked: int) -> None:
    time.sleep(60)


@contextmanager
def chat_server(play: Play = echo, key: str = "") -> Iterator[ChatServer]:
    """A server of its own thread for the length of a block."""
    server = ChatServer(play, key)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
