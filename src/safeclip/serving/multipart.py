"""Turn forms with files into the JSON of the same route, for clients that would rather not write base64.

Parts `images` make `{"images": [...]}`; parts `items` make a list of `{"image"}` (a file) or `{"text"}`; a
part `query` makes one of them; `k` and `with_base` are read as JSON. All is then checked as any JSON is.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from safeclip.serving.middleware import App, Message, Receive, Scope, Send, header, refuse
from safeclip.serving.schemas import MAX_ITEMS

MAX_PART_BYTES = 100_000  # of a part that is no file


class Multipart:
    """Hands a multipart request on as JSON; 400 if the form cannot be read."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not header(scope, b"content-type").startswith(b"multipart/form-data"):
            return await self.app(scope, receive, send)
        request = Request(scope, receive)
        try:
            form = request.form(
                max_files=MAX_ITEMS + 1, max_fields=MAX_ITEMS + 3, max_part_size=MAX_PART_BYTES
            )
            async with form as parts:
                body = json.dumps(await _as_json(parts)).encode()
        except (MultiPartException, HTTPException, ValueError, KeyError, RecursionError):
            return await refuse(send, 400, "the form cannot be read; send parts `images`, `items` or `query`")
        return await self.app(_as_json_request(scope, len(body)), _once(body, receive), send)


async def _as_json(form: FormData) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, part in form.multi_items():
        if name == "images":
            fields.setdefault(name, []).append((await _item(part)).get("image", ""))
        elif name == "items":
            fields.setdefault(name, []).append(await _item(part))
        elif name == "query":
            fields[name] = await _item(part)
        else:
            fields[name] = json.loads(part) if isinstance(part, str) else None
    return fields


async def _item(part: UploadFile | str) -> dict[str, str]:
    if isinstance(part, str):
        return {"text": part}
    return {"image": base64.b64encode(await part.read()).decode()}


def _as_json_request(scope: Scope, length: int) -> Scope:
    ours = (b"content-type", b"content-length", b"transfer-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name not in ours]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(length).encode())]
    return {**scope, "headers": headers}


def _once(body: bytes, receive: Receive) -> Receive:
    """The body in one message, then whatever the connection says (that the client left)."""
    sent = False

    async def messages() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return messages
