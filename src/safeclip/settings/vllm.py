"""A vLLM server as the sections that can use one describe it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from safeclip.settings.section import Positive, Rate, Section


class Vllm(Section):
    """A vLLM server, or any other with its HTTP API; read if `engine` is vllm.

    Without a `url` a server is started from `environment` and stopped afterwards. With one, the server there
    must serve `model`; its key is read from SAFECLIP_VLLM_API_KEY.
    """

    url: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    model: str = "rewriter"  # the name under which the model is served
    environment: str = ".venv-vllm"  # made by `make vllm`
    arguments: tuple[str, ...] = ()  # further ones of the server that is started
    start_seconds: Rate = 600.0  # to load the model
    in_flight: Positive = 64  # requests under way at once, a worker
    answer_seconds: Rate = 120.0  # in which some request must be answered
    attempts: Positive = 5  # a request
