"""Tell another system what happened: one JSON POST to `registry.webhook`. It never stops the run."""

from __future__ import annotations

import logging
from typing import Any, Literal

Event = Literal[
    "stage_failed", "gate_failed", "approval_wanted", "promoted", "rolled_back", "production_worse"
]


def notify(url: str | None, event: Event, **facts: Any) -> bool:
    """POST {"event": ..., "project": "safeclip", ...facts}; False (and a log line) if nobody took it."""
    if url is None:
        return False
    import httpx

    try:
        answer = httpx.post(url, json={"event": event, "project": "safeclip", **facts}, timeout=5.0)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        logging.getLogger(__name__).warning("webhook %s: %s", event, error)
        return False
    return True
