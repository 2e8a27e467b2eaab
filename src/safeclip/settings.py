"""params.yaml as typed, frozen models: one section a stage, named after it.

An unknown key, a wrong type or an impossible value is a `SettingsError` of one line that names the key,
the value and what is allowed. DVC reads the same file: a stage depends on `seed`, `compute.threads` and
its own section.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from safeclip.errors import SettingsError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0.0)]
Weight = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """A frozen section; unknown keys are errors, numbers are not read from strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class Compute(Section):
    """How work is spread. `threads` is part of the result (sums change order), `workers` is not."""

    threads: Positive = 1  # torch threads a process
    workers: Positive = 2  # processes that share the micro-batches of synthesis


class Data(Section):
    """What enters: the folder that data.dvc versions, and how many rows of each split are used."""

    path: str = "data"
    train: Positive = 850
    val: Positive = 180
    test: Positive = 2230


class TuneRewriter(Section):
    """LoRA SFT of the rewriter on the curated pairs."""

    model: str = "smollm2-135m"  # or a transformers name or folder
    lora_rank: Positive = 16
    lora_alpha: Positive = 32
    epochs: Positive = 3
    batch_size: Positive = 10
    learning_rate: Rate = 1e-3
    warmup_steps: Count = 3
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the frozen weights; the adapter is float32


class RewriteCaptions(Section):
    """Safe caption + sampled concept -> unsafe caption."""

    engine: Literal["transformers"] = "transformers"
    batch_size: Positive = 64  # rows a micro-batch; part of the data (floating point differs by batch)
    max_new_tokens: Positive = 24
    temperature: Rate = 0.7
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    nearest_concepts: Positive = 50  # candidates under the base encoder, then uniform
    max_lost: Share = 0.2  # larger share of quarantined and destroyed rows stops the stage


class RenderImages(Section):
    """Unsafe caption -> image."""

    engine: Literal["picturebook"] = "picturebook"
    image_size: Positive = 64
    misrender: Share = 0.1  # share of generated pictures that miss what the caption asks
    shard_rows: Positive = 1000


class LabelSafety(Section):
    """Independent safe/unsafe labels, one a modality."""

    text_threshold: Share = 0.5
    image_threshold: Share = 0.5


class ValidateData(Section):
    """Bounds of the data contract's expectations; a broken one stops the chain."""

    min_rows: Positive = 1000
    max_quarantined: Share = 0.1  # of the rows that reach validation
    min_unsafe_text: Share = 0.5  # in each split
    min_unsafe_image: Share = 0.4  # in each split
    max_state_share: Share = 0.95  # of one label state: more means a labeller that says one thing
    max_caption_words: Positive = 40
    min_image_side: Positive = 32
    min_similarity: Share = 0.2  # words shared in order by safe and generated caption, 2M/T
    min_category_share: Share = 0.01
    near_duplicate_levels: Weight = 3.0  # root-mean-square difference of 16 x 16 thumbnails, of 255
    sample_rows: Count = 8  # rows shown on the page, unsafe pictures blurred


class EmbedTeacher(Section):
    """The frozen base encoder's embeddings."""

    batch_size: Positive = 256


class Lora(Section):
    """Low-rank updates of both towers: attention (key, value, output), MLP, patch embedding."""

    rank: Positive = 16
    alpha: Positive = 16  # the update is alpha / rank times the product of the factors
    query: bool = True  # adapt the query projection too


class Interpolate(Section):
    """Share of each tower's update that is kept: 0 is the base, 1 the fine-tuned tower (arXiv 2109.01903)."""

    text: Share = 0.5
    image: Share = 1.0


class Finetune(Section):
    """LoRA fine-tuning under a chosen objective."""

    objective: Literal["opposed", "relative", "safe_clip", "safer_clip", "shield_clip"] = "opposed"
    weights: dict[str, Weight] = Field(default_factory=dict)  # by loss name; the objective's own otherwise
    lora: Lora = Lora()
    interpolate: Interpolate = Interpolate()
    steps: Positive = 200
    batch_size: Positive = 128
    learning_rate: Rate = 3e-3  # after the warm-up a cosine to zero
    warmup_steps: Count = 10
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    max_grad_norm: Rate = 1.0
    validate_every: Positive = 40
    checkpoint_every: Positive = 40


class Evaluate(Section):
    """Retrieval and zero-shot on the test split."""

    batch_size: Positive = 256
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    grid_queries: Positive = 6


class Rule(Section):
    """One gate rule: the interval's end nearer to failure must keep the bound.

    `against: number` bounds the candidate's share by `value`. Against a model it bounds
    `candidate - factor * model` by `offset`, paired by query. `against: production` is not applicable only
    while production.json says that nothing was ever in production.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    metric: str  # dotted path below `candidate` in metrics.json, or `categories.CATEGORY.` and such a path
    against: Literal["number", "base", "production"] = "number"
    op: Literal["<=", ">="]
    factor: Weight = 1.0
    offset: float = 0.0
    value: float | None = None  # the bound itself, for `against: number`
    min_n: Positive = 100
    why: Annotated[str, Field(min_length=10)]

    @model_validator(mode="after")
    def _value_belongs_to_numbers(self) -> Rule:
        if (self.against == "number") != (self.value is not None):
            raise ValueError("`value` is needed with `against: number`, and only there")
        return self


class Gate(Section):
    """Rules on top of the core set in code, which params cannot remove or loosen."""

    rules: tuple[Rule, ...] = ()
    bootstrap: Annotated[int, Field(ge=1000)] = 1000
    confidence: Annotated[float, Field(ge=0.95, lt=1.0)] = 0.95

    @model_validator(mode="after")
    def _ids_are_distinct_and_not_core(self) -> Gate:
        ids = [rule.id for rule in self.rules]
        for rule_id in ids:
            if ids.count(rule_id) > 1:
                raise ValueError(f"two rules have the id {rule_id!r}; rename one")
            if rule_id.startswith("core_"):
                raise ValueError(f"the id {rule_id!r} belongs to the core set; rename the rule")
        return self


class Report(Section):
    title: str = "safeclip candidate"


class Package(Section):
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")] = "safeclip-embedder"


class Settings(Section):
    """The whole of params.yaml."""

    seed: Count = 2311
    compute: Compute = Compute()
    data: Data = Data()
    tune_rewriter: TuneRewriter = TuneRewriter()
    rewrite_captions: RewriteCaptions = RewriteCaptions()
    render_images: RenderImages = RenderImages()
    label_safety: LabelSafety = LabelSafety()
    validate_data: ValidateData = ValidateData()
    embed_teacher: EmbedTeacher = EmbedTeacher()
    finetune: Finetune = Finetune()
    evaluate: Evaluate = Evaluate()
    gate: Gate = Gate()
    report: Report = Report()
    package: Package = Package()


def load_settings(path: Path | str = "params.yaml") -> Settings:
    """Read and check params.yaml; a `SettingsError` of one line names the first fault."""
    path = Path(path)
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file; run from the project's root") from None
    except (YAMLError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise SettingsError(f"{path}: not valid YAML ({first}); mend the file") from None
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: must hold sections such as `finetune:`; found {type(raw).__name__}")
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(f"{path}: {_first_fault(error)}") from None


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key `{key}`; remove it or check its spelling"
    message = fault["msg"].removeprefix("Value error, ")
    return f"`{key}` = {fault['input']!r}: {message}"
