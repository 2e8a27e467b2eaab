"""The section `rewrite_captions` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from safeclip.settings.section import Positive, Rate, Section, Share


class Vllm(Section):
    """A vLLM server, or any other with its HTTP API; read if `engine` is vllm.

    Without a `url` a server is started from `environment` with the tuned adapter and stopped afterwards. With
    one, the server there must serve `model`; its key is read from SAFECLIP_VLLM_API_KEY.
    """

    url: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    model: str = "rewriter"  # the name under which the tuned model is served
    environment: str = ".venv-vllm"  # made by `make vllm`
    arguments: tuple[str, ...] = ()  # further ones of the server that is started
    start_seconds: Rate = 600.0  # to load the model
    in_flight: Positive = 64  # requests under way at once, a worker
    answer_seconds: Rate = 120.0  # in which some request must be answered
    attempts: Positive = 5  # a request


class RewriteCaptions(Section):
    """Safe caption + sampled concept -> unsafe caption."""

    engine: Literal["transformers", "vllm"] = "transformers"
    batch_size: Positive = 64  # rows a micro-batch; part of the data (floating point differs by batch)
    max_new_tokens: Positive = 24
    temperature: Rate = 0.7
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    nearest_concepts: Positive = 50  # candidates under the base encoder
    category_balance: Share = 0.0  # share of rows that draw a category first; the others draw a phrase
    vllm: Vllm = Vllm()
    max_lost: Share = 0.2  # larger share of quarantined and destroyed rows stops the stage
