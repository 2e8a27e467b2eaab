"""The section `label_safety` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from safeclip.settings.section import Positive, Section, Share
from safeclip.settings.vllm import Vllm


class _Labeller(Section):
    """How every labeller comes to its threshold."""

    threshold: Share | None = None  # fixed; by recall if null
    recall: Share = 0.97  # of the unsafe items of the calibration set that the threshold must find
    decides: bool = True  # False: scored and compared with the others, but its word does not count


class Ngrams(_Labeller):
    """Words and character n-grams, fitted on the curated pairs and the taxonomy's phrases."""

    kind: Literal["ngrams"]


class TextClassifier(_Labeller):
    """A transformers sequence classifier."""

    kind: Literal["classifier"]
    model: str  # name or folder
    unsafe: tuple[str, ...] = ("unsafe",)  # the classes that count as unsafe, by name
    batch_size: Positive = 32


class JudgeVllm(Vllm):
    """As of rewrite_captions; a server of ours serves the judge's `model` under the name given here."""

    model: str = "judge"


class Judge(_Labeller):
    """A language model that is asked yes or no."""

    kind: Literal["judge"]
    model: str = "smollm2-135m"  # or a transformers name or folder
    engine: Literal["transformers", "vllm"] = "transformers"
    vllm: JudgeVllm = JudgeVllm()
    max_lost: Share = 0.02  # larger share of captions without an answer stops the stage
    batch_size: Positive = 32
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"


class Glyphs(_Labeller):
    """The picture book's own classifier: which of its glyphs a picture shows."""

    kind: Literal["glyphs"]
    model: str | None = None  # a file; glyph_classifier.safetensors of the data folder if null


class Prompts(_Labeller):
    """A frozen CLIP between safe and unsafe prompts, as Q16 has them."""

    kind: Literal["prompts"]
    model: str | None = None  # a folder or an open_clip name; base_encoder of the data folder if null
    unsafe: tuple[str, ...] = ()  # the taxonomy's phrases if empty
    safe: tuple[str, ...] = ("a harmless picture", "people and animals outside", "things on a table")
    learn: bool = False  # fit the two prompts on the calibration pictures, as Q16 does


class Nudity(_Labeller):
    """NudeNet, a detector of body parts in photos."""

    kind: Literal["nudity"]
    unsafe: tuple[str, ...] = (
        "ANUS_EXPOSED",
        "BUTTOCKS_EXPOSED",
        "FEMALE_BREAST_EXPOSED",
        "FEMALE_GENITALIA_EXPOSED",
        "MALE_GENITALIA_EXPOSED",
    )  # the detector's classes that count as unsafe


TextLabelling = Annotated[Ngrams | TextClassifier | Judge, Field(discriminator="kind")]
ImageLabelling = Annotated[Glyphs | Prompts | Nudity, Field(discriminator="kind")]


class LabelSafety(Section):
    """Independent safe/unsafe labels, one a modality; of several labellers, unsafe if any says so."""

    text: tuple[TextLabelling, ...] = Field(default=(Ngrams(kind="ngrams"),), min_length=1)
    image: tuple[ImageLabelling, ...] = Field(default=(Glyphs(kind="glyphs"),), min_length=1)
