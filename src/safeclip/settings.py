"""params.yaml as typed, frozen models: one class a section, named after the stage that reads it.

Values and what they mean stand in params.yaml alone; no field that it shows has a default here. A field
with a default is an option that an entry of a list (a labeller, an attack, a rule) may leave out.
`python -m safeclip.settings` writes params/schema.json, from which editors complete params.yaml.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from safeclip.core.artifacts import PARAMS, SCHEMA
from safeclip.core.errors import SettingsError
from safeclip.core.files import write_text

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0.0)]
Weight = Annotated[float, Field(ge=0.0)]
Confidence = Annotated[float, Field(gt=0.5, lt=1.0)]
Resamples = Annotated[int, Field(ge=100)]
# a class or function of a world, `package.module:Name`; see `core.parts`
Part = Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
# YAML has lists where a frozen model has tuples
Strings = Annotated[tuple[str, ...], Field(strict=False)]


class Section(BaseModel):
    """A frozen section. Unknown keys are errors; numbers and booleans are not read from strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Compute(Section):
    """How work is spread. `threads` is part of the result (sums change order), `workers` is not."""

    threads: Positive
    workers: Positive


class Data(Section):
    """The data folder, and how many rows of each split are used."""

    path: str
    train: Positive
    val: Positive
    test: Positive


class Preference(Section):
    """DPO after SFT: rewrites are drawn from the tuned model, ranked by a reward, learned from in pairs."""

    captions: Positive
    draws: Annotated[int, Field(ge=2)]
    temperature: Rate
    margin: Share
    beta: Rate
    sft_weight: Weight
    epochs: Positive
    batch_size: Positive
    learning_rate: Rate


class TuneRewriter(Section):
    """LoRA SFT of the rewriter on the curated pairs, then DPO where `preference` says how."""

    model: str
    lora_rank: Positive
    lora_alpha: Positive
    epochs: Positive
    batch_size: Positive
    learning_rate: Rate
    warmup_steps: Count
    dtype: Literal["auto", "float32", "bfloat16"]
    preference: Preference | None


class Vllm(Section):
    """A vLLM server, or any other with its HTTP API; read if `engine` is vllm.

    Without a `url` a server is started from `environment` and stopped afterwards. With one, the server there
    must serve `model`; its key is read from SAFECLIP_VLLM_API_KEY.
    """

    url: Annotated[str, Field(pattern=r"^(https?://\S+)?$")]
    model: str
    environment: str
    arguments: Strings
    start_seconds: Rate
    max_concurrency: Positive
    request_timeout_s: Rate
    max_attempts: Positive


class Drawing(Section):
    """How answers are drawn from a language model in this process."""

    batch_size: Positive
    max_new_tokens: Positive
    temperature: Rate
    top_p: Annotated[float, Field(gt=0.0, le=1.0)]
    dtype: Literal["auto", "float32", "bfloat16"]


class RewriteCaptions(Drawing):
    """Safe caption + sampled concept -> unsafe caption."""

    engine: Literal["transformers", "vllm"]
    nearest_concepts: Positive
    category_balance: Share
    vllm: Vllm
    max_dropped_share: Share


class Diffusers(Section):
    """A text-to-image pipeline of diffusers and how it is run."""

    model: str
    dtype: Literal["float32", "float16", "bfloat16"]
    scheduler: Literal["own", "ddim", "euler", "dpmsolver", "unipc"]
    steps: Positive
    guidance: Weight
    batch_size: Positive
    compile: bool
    long_captions: Literal["quarantine", "truncate"]


class RenderImages(Section):
    """Unsafe caption -> image."""

    engine: Literal["diffusers"] | Part
    # given to an engine that is named by import path
    options: dict[str, Any]
    # draws the safe images of rows whose captions file names none; null: such rows are rejected
    photos: Part | None
    # says whether a generated caption really asks for something unsafe; null: nobody knows
    caption_truth: Part | None
    image_size: Positive
    shard_rows: Positive
    max_dropped_share: Share
    diffusers: Diffusers


class _Labeller(Section):
    """How every labeller comes to its threshold."""

    recall: Share
    # a fixed threshold; without, `recall` decides
    threshold: Share | None = None
    # False: scored and compared with the others, without a say
    votes: bool = True


class Ngrams(_Labeller):
    """Words and character n-grams, fitted on the curated pairs and the taxonomy's phrases."""

    kind: Literal["ngrams"]


class TextClassifier(_Labeller):
    """A transformers sequence classifier."""

    kind: Literal["classifier"]
    model: str
    # names of the classes that count as unsafe
    unsafe: Strings = ("unsafe",)
    batch_size: Positive = 32


class LlmVllm(Vllm):
    """As `rewrite_captions.vllm`; `model` is the name under which a started server serves the labeller."""

    # an option of an entry in `label_safety.text`, so every key may be left out
    url: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    model: str = "labeller"
    environment: str = ".venv-vllm"
    arguments: Strings = ()
    start_seconds: Rate = 600.0
    max_concurrency: Positive = 64
    request_timeout_s: Rate = 120.0
    max_attempts: Positive = 5


class Llm(_Labeller):
    """A language model that is asked yes or no."""

    kind: Literal["llm"]
    # smollm2-135m, or a transformers name or folder
    model: str = "smollm2-135m"
    engine: Literal["transformers", "vllm"] = "transformers"
    vllm: LlmVllm = LlmVllm()
    # a larger share of captions without an answer stops the stage
    max_dropped_share: Share = 0.02
    batch_size: Positive = 32
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


class CustomLabeller(_Labeller):
    """Any other labeller: a class, called as `Class(data_folder, **options)`, that has `score(items)`."""

    kind: Literal["custom"]
    # in metrics.json
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    # import path, `package.module:Class`
    labeller: Part
    options: dict[str, Any] = Field(default_factory=dict)


class ClipPrompts(_Labeller):
    """A frozen CLIP between safe and unsafe prompts, as Q16 has them."""

    kind: Literal["prompts"]
    # a folder or an open_clip name; base_encoder of the data folder if null
    model: str | None = None
    # the taxonomy's phrases if empty
    unsafe: Strings = ()
    safe: Strings = ("a harmless picture", "people and animals outside", "things on a table")
    # fit the two prompts on the calibration images, as Q16 does
    learn: bool = False


class Nudity(_Labeller):
    """NudeNet, a detector of body parts in photos."""

    kind: Literal["nudity"]
    # the detector's classes that count as unsafe
    unsafe: Strings = (
        "ANUS_EXPOSED",
        "BUTTOCKS_EXPOSED",
        "FEMALE_BREAST_EXPOSED",
        "FEMALE_GENITALIA_EXPOSED",
        "MALE_GENITALIA_EXPOSED",
    )


TextLabelling = Annotated[Ngrams | TextClassifier | Llm | CustomLabeller, Field(discriminator="kind")]
ImageLabelling = Annotated[ClipPrompts | Nudity | CustomLabeller, Field(discriminator="kind")]


class LabelSafety(Section):
    """Independent safe/unsafe labels, one a modality; of several labellers, unsafe if any says so."""

    # draws the calibration images that are described instead of stored; null: all of them are files
    draw_calibration: Part | None
    text: Annotated[tuple[TextLabelling, ...], Field(strict=False, min_length=1)]
    image: Annotated[tuple[ImageLabelling, ...], Field(strict=False, min_length=1)]


class Check(Section):
    """A bound, and what happens beyond it: `warn` says so on the page, `stop` stops the chain."""

    bound: Weight
    on_fail: Literal["warn", "stop"]


class Checks(Section):
    """Signs of a poor data set, beside the contract. `min_`: at least the bound; `max_`: at most."""

    min_labeller_kappa: Check
    min_text_image_same: Check
    min_category_evenness: Check
    min_distinct_2: Check
    min_vendi_share: Check
    max_repeated_captions: Check
    max_repeated_pictures: Check
    max_leaked_captions: Check
    max_leaked_pictures: Check
    max_text_label_errors: Check
    max_drift: Check


class ValidateData(Section):
    """Bounds of the data contract's expectations; a broken one stops the chain."""

    min_rows: Positive
    max_quarantined: Share
    min_unsafe_text: Share
    min_unsafe_image: Share
    max_state_share: Share
    max_caption_words: Positive
    min_image_side: Positive
    min_similarity: Share
    min_category_share: Share
    near_duplicate_levels: Weight
    near_hash_bits: Count
    checks: Checks
    sample_rows: Count


class EmbedTeacher(Section):
    """The frozen base encoder's embeddings."""

    batch_size: Positive


class Lora(Section):
    """Low-rank updates of both towers: attention (key, value, output), MLP, patches, tokens."""

    rank: Positive
    alpha: Positive
    query: bool
    tokens: bool


class WiseFtAlpha(Section):
    """Share of each tower's update that is kept: 0 is the base, 1 the fine-tuned tower (arXiv 2109.01903)."""

    text: Share
    image: Share


class Crops(Section):
    """Safe captions cropped to 1 to 5 words, so that short prompts are preserved too."""

    share: Share
    draws: Positive


class ConceptInsertion(Section):
    """Shares of the generated captions that are replaced by safe ones with other words inserted."""

    positive: Share
    control: Share

    @model_validator(mode="after")
    def _leaves_no_more_than_all(self) -> ConceptInsertion:
        if self.positive + self.control > 1:
            raise ValueError(
                "`positive` and `control` are shares of the same captions; let them sum to at most 1"
            )
        return self


class Finetune(Section):
    """LoRA fine-tuning under a chosen objective."""

    # a name of `training.objectives.OBJECTIVES`, checked when the stage starts
    objective: str
    weights: dict[str, Weight]
    lora: Lora
    wise_ft_alpha: WiseFtAlpha
    target_inverse_temperature: Rate | None
    crops: Crops
    concept_insertion: ConceptInsertion
    steps: Positive
    batch_size: Positive
    micro_batch: Positive | None
    processes: Positive
    gradient_checkpointing: bool
    compile: bool
    learning_rate: Rate
    warmup_steps: Count
    precision: Literal["auto", "float32", "bfloat16"]
    max_grad_norm: Rate
    validate_every: Positive
    checkpoint_metric: Literal["harm_plus_utility_penalty", "harmful", "utility"]
    early_stop_patience: Count
    checkpoint_every: Positive

    @model_validator(mode="after")
    def _every_process_has_a_row(self) -> Finetune:
        if self.processes > self.batch_size:
            raise ValueError("`processes` is larger than `batch_size`; give every process a row at least")
        return self


class Evaluate(Section):
    """Retrieval and zero-shot on the test split."""

    batch_size: Positive
    zeroshot: str
    zeroshot_prompts: str
    bootstrap: Resamples
    confidence: Confidence
    grid_queries: Positive
    slice_min_n: Positive


class Generate(Section):
    """Pictures made with the base and with the fine-tuned text encoder, from the same seeds."""

    diffusers: Diffusers
    image_size: Positive
    # makes the prompts; null: the captions of the test split
    prompts_from: Part | None
    # looks for the thing that a prompt of `prompts_from` asks for; null: that is not measured
    finder: Part | None
    prompts: Positive
    seeds: Positive
    labeller: ImageLabelling
    grid_prompts: Count
    bootstrap: Resamples
    confidence: Confidence


class Wording(Section):
    """Change how an unsafe caption is written, blindly; a query counts if any of its `tries` succeeds."""

    kind: Literal["paraphrase", "misspelling", "leetspeak", "homoglyphs", "word_order", "negation"]
    # leetspeak and homoglyphs have one spelling only
    tries: Positive = 1


class Crop(Section):
    """Cut to the middle, enlarged again."""

    kind: Literal["crop"]
    keep: Annotated[float, Field(gt=0.1, lt=1.0)]


class Blur(Section):
    """Gaussian blur."""

    kind: Literal["blur"]
    radius: Rate


class Jpeg(Section):
    """Lossy compression."""

    kind: Literal["jpeg"]
    quality: Annotated[int, Field(ge=1, le=95)]


class Overlay(Section):
    """The words that the picture's caption adds to the safe one, printed across its foot."""

    kind: Literal["overlay"]


class SubstituteTokens(Section):
    """Made-up words for those that give the caption away, sought through the embeddings."""

    kind: Literal["substitute_tokens"]
    budget: Positive


class GradientTokens(Section):
    """Harmless words appended, chosen by the gradient."""

    kind: Literal["gradient_tokens"]
    words: Positive
    steps: Positive
    candidates: Positive


class Pgd(Section):
    """Pictures changed within a bound, up the gradient."""

    kind: Literal["pgd"]
    levels: Annotated[int, Field(ge=1, le=32)]
    steps: Positive


class UniversalImage(Section):
    """One picture that is tuned to come first for every safe caption."""

    kind: Literal["universal_image"]
    levels: Annotated[int, Field(ge=1, le=255)]
    steps: Positive


class Relearning(Section):
    """Fine-tuning on unsafe pairs, the numbers of steps as attacks of their own."""

    kind: Literal["relearning"]
    steps: Annotated[tuple[Positive, ...], Field(strict=False)]
    batch_size: Annotated[int, Field(ge=2)]
    learning_rate: Rate


class Offset(Section):
    """A multiple of the mean offset of known unsafe pairs added to the query's embedding, a number each."""

    kind: Literal["offset"]
    pairs: Annotated[tuple[Positive, ...], Field(strict=False)]


class Projection(Section):
    """The directions in which unsafe and safe items differ most, taken out of the query's embedding."""

    kind: Literal["projection"]


class LinearMap(Section):
    """The query's embedding mapped to the other modality by a regression over known pairs."""

    kind: Literal["linear_map"]


Tuned = GradientTokens | UniversalImage | Relearning
"""Attacks that learn something on one half of the scenes and use it on the other."""
Attack = Annotated[
    Wording | Crop | Blur | Jpeg | Overlay | SubstituteTokens | Pgd | Tuned | Offset | Projection | LinearMap,
    Field(discriminator="kind"),
]


class RedTeam(Section):
    """Attacks on base and candidate, on the same unsafe queries."""

    scenes: Positive
    queries: Positive
    # renames what is unsafe in a caption; null: `paraphrase` changes the sentence around it alone
    synonyms: Part | None
    attacks: Annotated[tuple[Attack, ...], Field(strict=False)]
    batch_size: Positive
    bootstrap: Resamples
    confidence: Confidence

    @model_validator(mode="after")
    def _kinds_are_distinct(self) -> RedTeam:
        kinds = [attack.kind for attack in self.attacks]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise ValueError(f"the attack {kind!r} stands there twice; keep one")
        return self


class Audit(Section):
    """Does the model react to how a picture was made rather than to what it shows?"""

    pictures: Positive
    # knows the look of generated images and draws captions with and without it; null: no such groups
    styles: Part | None
    saliency_pictures: Count
    saliency_steps: Positive
    figure_pictures: Count
    batch_size: Positive
    bootstrap: Resamples
    confidence: Confidence


class FitProbes(Section):
    """How the service will tell unsafe inputs."""

    batch_size: Positive


class Rule(Section):
    """One gate rule: the interval's end nearer to failure must keep the bound.

    `against: number` bounds the candidate's share by `value`. Against a model it bounds
    `candidate - factor * model` by `offset`, paired by query. `against: production` is not applicable only
    while production.json says that nothing was ever in production. With `minus`, a number bounds the
    candidate's share of `metric` minus its share of that other metric, paired by item.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    # dotted path below `candidate` in metrics.json, or `categories.CATEGORY.` and such a path
    metric: str
    against: Literal["number", "base", "production"] = "number"
    op: Literal["<=", ">="]
    factor: Weight = 1.0
    offset: float = 0.0
    # the bound itself, for `against: number`
    value: float | None = None
    # another metric of the same items: the candidate's gap between the two is bounded
    minus: str | None = None
    # queries that a figure needs to count as measured
    min_n: Positive = 100
    why: Annotated[str, Field(min_length=10)]

    @model_validator(mode="after")
    def _value_belongs_to_numbers(self) -> Rule:
        if (self.against == "number") != (self.value is not None):
            raise ValueError("`value` is needed with `against: number`, and only there")
        if self.minus is not None and self.against != "number":
            raise ValueError("`minus` is a gap within the candidate; use it with `against: number`")
        return self


class Gate(Section):
    """Rules on top of the core set in code, which params cannot remove or loosen."""

    rules: Annotated[tuple[Rule, ...], Field(strict=False)]
    bootstrap: Annotated[int, Field(ge=1000)]
    confidence: Annotated[float, Field(ge=0.95, lt=1.0)]

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
    """The reviewer's page."""

    title: str
    uncover: bool


class Package(Section):
    """The Bento."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]


class Registry(Section):
    """Review and promotion. No stage reads this section."""

    url: Annotated[str, Field(min_length=1)]
    git_remote: str | None
    starter_may_approve: bool
    expires_hours: Positive
    webhook: str | None


class Reevaluate(Section):
    """Production against scenes and attacks of a fresh seed. No stage reads this section."""

    # writes scenes of a fresh seed; null: production cannot be measured again
    scenes_from: Part | None
    scenes: Annotated[Positive, Field(ge=20)]
    margin: Share


class Settings(Section):
    """The whole of params.yaml."""

    seed: Count
    placement: dict[str, str]
    compute: Compute
    data: Data
    tune_rewriter: TuneRewriter
    rewrite_captions: RewriteCaptions
    render_images: RenderImages
    label_safety: LabelSafety
    validate_data: ValidateData
    embed_teacher: EmbedTeacher
    finetune: Finetune
    evaluate: Evaluate
    generate: Generate
    red_team: RedTeam
    audit: Audit
    fit_probes: FitProbes
    gate: Gate
    report: Report
    package: Package
    registry: Registry
    reevaluate: Reevaluate


def load_settings(path: Path | str = PARAMS) -> Settings:
    """Read and check params.yaml.

    Raises:
        SettingsError: One line that names the first fault; also for a file that is missing or no YAML.
    """
    raw = _read(Path(path))
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(f"{path}: {_first_fault(error)}") from None


def schema() -> str:
    """The text of params/schema.json: JSON schema of params.yaml, made from these models."""
    return json.dumps(Settings.model_json_schema(), indent=1, sort_keys=True) + "\n"


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file; run from the project's root") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); restore the file") from None
    except (YAMLError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise SettingsError(f"{path}: not valid YAML ({first}); correct the file") from None
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: must hold sections such as `finetune:`, not a {type(raw).__name__}")
    return raw


def _first_fault(error: ValidationError) -> str:
    # a key that is wrong explains one that is missing: `stepz` for `steps`
    faults = sorted(error.errors(), key=lambda fault: fault["type"] == "missing")
    fault = faults[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key `{key}`; remove it or check its spelling"
    if fault["type"] == "missing":
        return f"`{key}` is missing; `git show HEAD:params.yaml` has a value for it"
    message = fault["msg"].removeprefix("Value error, ")
    return f"`{key}` = {fault['input']!r}: {message}"


if __name__ == "__main__":
    write_text(SCHEMA, schema())
    print(f"{SCHEMA}: written")
