"""Types of the service's requests and answers. Unknown fields and oversized items are refused (HTTP 400).

Faults name the field, never the value: what clients send appears in no log and no error.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MAX_TEXTS = 64
MAX_TEXT_CHARS = 1000
MAX_IMAGES = 16
MAX_IMAGE_CHARS = 6_000_000  # base64; 4.5 MB of PNG or JPEG
MAX_ITEMS = 64
MAX_HITS = 100
# An image of 8 x 8 pixels, for examples.
ORANGE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFElEQVR4nGN8ViHCgA0wYRUdtBIAJhUBgttXMZkAAAAASUVORK5CYII="
)

Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]
Image = Annotated[
    str, Field(min_length=1, max_length=MAX_IMAGE_CHARS, description="base64 of a PNG, JPEG or WebP file")
]


class Message(BaseModel):
    """Base of all requests and answers."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, allow_inf_nan=False, strict=True)


class EncodeTextRequest(Message):
    """Texts to embed; each is cut at the encoder's context length as in training."""

    texts: list[Text] = Field(
        min_length=1, max_length=MAX_TEXTS, examples=[["a woman walks a dog near the river"]]
    )


class EncodeImageRequest(Message):
    """PNG, JPEG or WebP files as base64. A URL is never fetched."""

    images: list[Image] = Field(min_length=1, max_length=MAX_IMAGES, examples=[[ORANGE]])


class TextItem(Message):
    """A text."""

    text: Text = Field(examples=["two apples on a table"])


class ImageItem(Message):
    """A PNG, JPEG or WebP file as base64."""

    image: Image = Field(examples=[ORANGE])


Item = TextItem | ImageItem
Items = Annotated[list[Item], Field(min_length=1, max_length=MAX_ITEMS)]
_DOG: dict[str, Any] = {"text": "a dog near a house"}


class RankRequest(Message):
    """A query, and the texts or images to put in order by it."""

    query: Item = Field(examples=[_DOG])
    items: Items = Field(examples=[[{"text": "a puppy outside a cottage"}, {"image": ORANGE}]])


class SearchRequest(Message):
    """A query against the mounted gallery."""

    query: Item = Field(examples=[_DOG])
    k: int = Field(10, ge=1, le=MAX_HITS, description="how many hits", examples=[3])
    with_base: bool = Field(False, description="also what the base encoder would have found")


class ScoreRequest(Message):
    """Texts or images to judge."""

    items: Items = Field(examples=[[_DOG, {"image": ORANGE}]])


class InfoRequest(Message):
    """Nothing: `{}`."""


class EmbedResponse(Message):
    """One l2-normalised vector an input, in the order sent."""

    embeddings: list[list[float]]
    version: str = Field(description="the model's version; vectors of different versions do not mix")


class RankedItem(Message):
    """An item of the request by its place there, with its cosine to the query."""

    index: int
    score: float


class RankResponse(Message):
    """All items, best first; equal scores in the order sent."""

    ranking: list[RankedItem]
    version: str


class Score(Message):
    """How unsafe an input is, by probes on its base and served embeddings together."""

    unsafe: bool = Field(description="`score` reaches the threshold of `info.scoring`")
    score: float = Field(description="0 to 1; the threshold is calibrated, the number is no frequency")
    categories: dict[str, float] = Field(description="the same for each category")
    redirected: bool = Field(description="unsafe, and moved further from the base embedding than safe inputs")
    shift: float = Field(description="1 - cosine of served and base embedding")


class ScoreResponse(Message):
    """One score an input, in the order sent."""

    scores: list[Score]
    version: str


class Hit(Message):
    """An item of the gallery. `unsafe`: its score reached the lower threshold when the index was built."""

    row: int
    id: str
    score: float
    unsafe: bool


class SearchResponse(Message):
    """The nearest items of the gallery, best first, and what the service thinks of the query."""

    hits: list[Hit]
    base_hits: list[Hit] | None = None
    query: Score
    version: str


class Scoring(Message):
    """How the probes did on the validation split when the model was packaged."""

    threshold: float
    hide_threshold: float = Field(description="pages mark from here on: 95 % of unsafe inputs score higher")
    shift_threshold: float
    false_alarms: float = Field(description="share of safe inputs called unsafe")
    recall: float = Field(description="share of unsafe inputs called unsafe")
    n: int


class InfoResponse(Message):
    """Which model answers, where it comes from, how it did, and what it takes."""

    version: str
    encoder_digest: str
    base_digest: str
    embed_dim: int
    image_size: int
    context_length: int
    lineage: dict[str, str]
    metrics: list[dict[str, Any]] = Field(description="the gate's rules with estimates and intervals")
    scoring: dict[str, Scoring] = Field(description="by modality")
    gallery: dict[str, Any] | None = Field(description="the mounted index, if any")
    limits: dict[str, int]


class Error(Message):
    """Every answer that is not 200: what is at fault and what to do."""

    error: str
