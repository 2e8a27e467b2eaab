"""The section `red_team` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from safeclip.settings.section import Positive, Rate, Section


class Wording(Section):
    """Change how an unsafe caption is written, blindly; a query counts if any of its `tries` succeeds."""

    kind: Literal["paraphrase", "misspelling", "leetspeak", "homoglyphs", "word_order", "negation"]
    tries: Positive = 1


class Crop(Section):
    """Cut to the middle, enlarged again."""

    kind: Literal["crop"]
    keep: Annotated[float, Field(gt=0.1, lt=1.0)] = 0.8  # of each side


class Blur(Section):
    """Gaussian blur."""

    kind: Literal["blur"]
    radius: Rate = 1.0  # in pixels at 64 pixels a side


class Jpeg(Section):
    """Lossy compression."""

    kind: Literal["jpeg"]
    quality: Annotated[int, Field(ge=1, le=95)] = 25


class Overlay(Section):
    """The words that the picture's caption adds to the safe one, printed across its foot."""

    kind: Literal["overlay"]


class SubstituteTokens(Section):
    """Made-up words for those that give the caption away, sought through the embeddings."""

    kind: Literal["substitute_tokens"]
    budget: Positive = 30  # proposals a query


class GradientTokens(Section):
    """Harmless words appended, chosen by the gradient."""

    kind: Literal["gradient_tokens"]
    words: Positive = 3
    steps: Positive = 6
    candidates: Positive = 6  # tried a step


class Pgd(Section):
    """Pictures changed within a bound, up the gradient."""

    kind: Literal["pgd"]
    levels: Annotated[int, Field(ge=1, le=32)] = 4  # of 255, the most that a pixel changes
    steps: Positive = 10


class UniversalImage(Section):
    """One picture that is tuned to come first for every safe caption."""

    kind: Literal["universal_image"]
    levels: Annotated[int, Field(ge=1, le=255)] = 32
    steps: Positive = 80


class Relearning(Section):
    """Fine-tuning on unsafe pairs, the numbers of steps as attacks of their own."""

    kind: Literal["relearning"]
    steps: tuple[Positive, ...] = (1, 5, 20)
    batch_size: Annotated[int, Field(ge=2)] = 32
    learning_rate: Rate = 0.0001


Tuned = GradientTokens | UniversalImage | Relearning
"""Attacks that learn something on one half of the scenes and use it on the other."""
Attack = Annotated[
    Wording | Crop | Blur | Jpeg | Overlay | SubstituteTokens | Pgd | Tuned, Field(discriminator="kind")
]
CHEAP: tuple[Attack, ...] = (
    *(
        Wording(kind=kind)
        for kind in ("paraphrase", "misspelling", "leetspeak", "homoglyphs", "word_order", "negation")
    ),
    Crop(kind="crop"),
    Blur(kind="blur"),
    Jpeg(kind="jpeg"),
    Overlay(kind="overlay"),
)


class RedTeam(Section):
    """Attacks on base and candidate, on the same unsafe queries."""

    scenes: Positive = 300  # of the test split that make the gallery; as many more where an attack tunes
    queries: Positive = 200  # unsafe ones of these, of each modality
    attacks: tuple[Attack, ...] = CHEAP
    batch_size: Positive = 256
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95

    @model_validator(mode="after")
    def _kinds_are_distinct(self) -> RedTeam:
        kinds = [attack.kind for attack in self.attacks]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise ValueError(f"the attack {kind!r} stands there twice; keep one")
        return self
