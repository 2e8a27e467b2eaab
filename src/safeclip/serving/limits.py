"""What the service takes at most, and what the operator sets in the environment (docs/service.md)."""

from __future__ import annotations

import os
from pathlib import Path

from safeclip.errors import SettingsError
from safeclip.serving.images import MAX_ASPECT, MAX_PIXELS
from safeclip.serving.middleware import MAX_BODY_BYTES
from safeclip.serving.schemas import (
    MAX_HITS,
    MAX_IMAGE_CHARS,
    MAX_IMAGES,
    MAX_ITEMS,
    MAX_TEXT_CHARS,
    MAX_TEXTS,
)

LIMITS = {
    "texts": MAX_TEXTS,
    "text_chars": MAX_TEXT_CHARS,
    "images": MAX_IMAGES,
    "image_base64_chars": MAX_IMAGE_CHARS,
    "image_pixels": MAX_PIXELS,
    "image_aspect": MAX_ASPECT,
    "items": MAX_ITEMS,
    "hits": MAX_HITS,
    "body_bytes": MAX_BODY_BYTES,
}

PRECISIONS = ("float32", "bfloat16")


def _count(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit() or not int(text):
        raise SettingsError(f"{name} = {text!r}: must be a whole number from 1; mend it or unset it")
    return int(text)


def _precision(name: str) -> str:
    text = os.environ.get(name, PRECISIONS[0])
    if text not in PRECISIONS:
        raise SettingsError(f"{name} = {text!r}: must be {' or '.join(PRECISIONS)}; mend it or unset it")
    return text


PRECISION = _precision("SAFECLIP_PRECISION")  # what the towers compute in
WORKERS = _count("SAFECLIP_WORKERS", 1)  # processes, each with its own copy of the model
THREADS = _count("SAFECLIP_THREADS", 1)  # torch threads a worker
BACKLOG_SECONDS = _count("SAFECLIP_BACKLOG", 20)  # estimated work that may wait; less than the time limit
TIMEOUT = _count("SAFECLIP_TIMEOUT", 30)  # seconds until a request is answered with 504


def model_folder() -> Path:
    """The model packaged in the Bento, pinned by its alias; or SAFECLIP_MODEL, for work on the service."""
    if folder := os.environ.get("SAFECLIP_MODEL"):
        return Path(folder)
    import bentoml

    return Path(bentoml.models.get("weights").path)
