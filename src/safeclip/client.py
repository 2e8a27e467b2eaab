"""A small typed client of the service.

    from safeclip.client import Client
    with Client("http://127.0.0.1:3000", token=...) as service:
        vectors = service.encode_text(["a dog near a house"])  # [1, D] float32, l2-normalised
        for place, cosine in service.rank("a dog", ["a puppy", "a kettle"]):
            print(place, cosine)

Images are given as bytes or as paths. What the service refuses raises a `ServiceError` with its status and
message; 429 and 503 are tried again, after the time that the service names.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
import numpy as np
from pydantic import BaseModel
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from safeclip.core.errors import SafeclipError
from safeclip.serving.schemas import (
    EmbedResponse,
    InfoResponse,
    RankResponse,
    Score,
    ScoreResponse,
    SearchResponse,
)

ImageFile = bytes | Path
Answer = TypeVar("Answer", bound=BaseModel)
AGAIN = (429, 503)


class ServiceError(SafeclipError):
    """The service refused a request or cannot be reached (status 0)."""

    def __init__(self, status: int, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


class Client:
    """Talks to one service; use it in a `with` block or call `close`."""

    def __init__(self, url: str, token: str | None = None, timeout: float = 60.0, attempts: int = 5) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        self._attempts = attempts

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Embed inputs: [N, D] float32, l2-normalised."""
        return _vectors(self._post("encode_text", {"texts": list(texts)}, EmbedResponse))

    def encode_image(self, images: Sequence[ImageFile]) -> np.ndarray:
        """Embed inputs: [N, D] float32, l2-normalised."""
        return _vectors(
            self._post("encode_image", {"images": [_encoded(image) for image in images]}, EmbedResponse)
        )

    def rank(self, query: str | ImageFile, items: Sequence[str | ImageFile]) -> list[tuple[int, float]]:
        """Places of the items with their cosines, best first."""
        body = {"query": _item(query), "items": [_item(item) for item in items]}
        return [(hit.index, hit.score) for hit in self._post("rank", body, RankResponse).ranking]

    def search(self, query: str | ImageFile, k: int = 10, *, with_base: bool = False) -> SearchResponse:
        """The nearest items of the mounted gallery."""
        return self._post("search", {"query": _item(query), "k": k, "with_base": with_base}, SearchResponse)

    def score(self, items: Sequence[str | ImageFile]) -> list[Score]:
        """How unsafe each item is."""
        return self._post("score", {"items": [_item(item) for item in items]}, ScoreResponse).scores

    def info(self) -> InfoResponse:
        """Which model answers, and what it takes."""
        return self._post("info", {}, InfoResponse)

    def _post(self, route: str, body: dict[str, Any], kind: type[Answer]) -> Answer:
        again = Retrying(
            retry=retry_if_exception(lambda error: getattr(error, "status", None) in AGAIN),
            wait=_named_by_service,
            stop=stop_after_attempt(self._attempts),
            reraise=True,
        )
        return kind.model_validate_json(again(self._once, route, body))

    def _once(self, route: str, body: dict[str, Any]) -> bytes:
        try:
            answer = self._http.post(f"/{route}", json=body)
        except httpx.HTTPError as error:
            raise ServiceError(0, f"{self._http.base_url}: no answer ({error}); is it running?") from None
        if answer.status_code == 200:
            return answer.content
        try:
            message = str(answer.json()["error"])
        except (ValueError, KeyError, TypeError):
            message = f"{route} was answered with status {answer.status_code}"
        after = answer.headers.get("retry-after", "1")
        raise ServiceError(answer.status_code, message, float(after) if after.isdigit() else 1.0)


def _named_by_service(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return error.retry_after if isinstance(error, ServiceError) else 1.0


def _vectors(answer: EmbedResponse) -> np.ndarray:
    return np.array(answer.embeddings, dtype=np.float32)


def _item(value: str | ImageFile) -> dict[str, str]:
    return {"text": value} if isinstance(value, str) else {"image": _encoded(value)}


def _encoded(image: ImageFile) -> str:
    return base64.b64encode(image if isinstance(image, bytes) else image.read_bytes()).decode()
