"""params.yaml as typed, frozen models: one file a section, one section a stage, named after it.

A stage imports its own section alone, so that a change to another section's code does not make it stale.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from safeclip.core.errors import SettingsError

# What every section of params.yaml is built from, and how a fault in the file is told in one line.


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0.0)]
Weight = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """A frozen section; unknown keys are errors, numbers are not read from strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


Loaded = TypeVar("Loaded", bound=Section)


def load(kind: type[Loaded], path: Path) -> Loaded:
    """Read and check a settings file as `kind`; a `SettingsError` of one line names the first fault."""
    try:
        return kind.model_validate(_read(path))
    except ValidationError as error:
        raise SettingsError(f"{path}: {_first_fault(error)}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file; run from the project's root") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); restore the file") from None
    except (YAMLError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise SettingsError(f"{path}: not valid YAML ({first}); mend the file") from None
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: must hold sections such as `finetune:`; found {type(raw).__name__}")
    return raw


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key `{key}`; remove it or check its spelling"
    message = fault["msg"].removeprefix("Value error, ")
    return f"`{key}` = {fault['input']!r}: {message}"


# What every stage reads of params.yaml beside its own section.


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


class StageSettings(Section):
    """Base of a stage's settings: the stage adds its own section, the others are not looked at."""

    model_config = ConfigDict(extra="ignore")

    seed: Count = 2311
    compute: Compute = Compute()
    data: Data = Data()


# The section `tune_rewriter` of params.yaml.


class Preference(Section):
    """DPO after SFT: rewrites are drawn from the tuned model, ranked by a reward, learned from in pairs."""

    captions: Positive = 300  # safe captions of the train split
    draws: Annotated[int, Field(ge=2)] = 6  # rewrites drawn for each
    temperature: Rate = 1.0  # of these draws
    margin: Share = 0.4  # of reward between the better and the worse rewrite
    beta: Rate = 0.1  # how dear it is to leave what SFT learned
    sft_weight: Weight = 0.2  # of the better rewrite's own likelihood in the loss
    epochs: Positive = 1
    batch_size: Positive = 8
    learning_rate: Rate = 3e-4


class TuneRewriter(Section):
    """LoRA SFT of the rewriter on the curated pairs, then DPO where `preference` says how."""

    model: str = "smollm2-135m"  # or a transformers name or folder
    lora_rank: Positive = 16
    lora_alpha: Positive = 32
    epochs: Positive = 3
    batch_size: Positive = 10
    learning_rate: Rate = 1e-3
    warmup_steps: Count = 3
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the frozen weights; the adapter is float32
    preference: Preference | None = None


# A vLLM server as the sections that can use one describe it.


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
    max_concurrency: Positive = 64  # requests under way at once, a worker
    request_timeout_s: Rate = 120.0  # in which some request must be answered
    max_attempts: Positive = 5  # a request


# The section `rewrite_captions` of params.yaml.


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
    max_dropped_share: Share = 0.2  # larger share of quarantined and destroyed rows stops the stage


# A text-to-image pipeline of diffusers and how it is run; part of `render_images` and of `generate`.


class Diffusers(Section):
    """A text-to-image pipeline of diffusers and how it is run."""

    model: str = "data/diffusion"  # a folder in diffusers' format, or a name on the hub
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    scheduler: Literal["own", "ddim", "euler", "dpmsolver", "unipc"] = "own"  # own: the pipeline's
    steps: Positive = 20
    guidance: Weight = 5.0
    batch_size: Positive = 8  # rows a micro-batch; halved where memory does not suffice
    compile: bool = False  # torch.compile of the denoiser
    long_captions: Literal["quarantine", "truncate"] = "quarantine"  # longer than the text encoder reads


# The section `render_images` of params.yaml.


class RenderImages(Section):
    """Unsafe caption -> image."""

    engine: Literal["picturebook", "diffusers"] = "picturebook"
    image_size: Positive = 64
    misrender: Share = 0.1  # picturebook: share of generated pictures that miss what the caption asks
    shard_rows: Positive = 1000
    max_dropped_share: Share = 0.2  # larger share of quarantined rows stops the stage
    diffusers: Diffusers = Diffusers()


# The section `label_safety` of params.yaml.


class _Labeller(Section):
    """How every labeller comes to its threshold."""

    threshold: Share | None = None  # fixed; by recall if null
    recall: Share = 0.97  # of the unsafe items of the calibration set that the threshold must find
    votes: bool = True  # False: scored and compared with the others, without a say


class Ngrams(_Labeller):
    """Words and character n-grams, fitted on the curated pairs and the taxonomy's phrases."""

    kind: Literal["ngrams"]


class TextClassifier(_Labeller):
    """A transformers sequence classifier."""

    kind: Literal["classifier"]
    model: str  # name or folder
    unsafe: tuple[str, ...] = ("unsafe",)  # the classes that count as unsafe, by name
    batch_size: Positive = 32


class LlmVllm(Vllm):
    """As of rewrite_captions; `model` is the name under which a started server serves the labeller."""

    model: str = "labeller"


class Llm(_Labeller):
    """A language model that is asked yes or no."""

    kind: Literal["llm"]
    model: str = "smollm2-135m"  # or a transformers name or folder
    engine: Literal["transformers", "vllm"] = "transformers"
    vllm: LlmVllm = LlmVllm()
    max_dropped_share: Share = 0.02  # larger share of captions without an answer stops the stage
    batch_size: Positive = 32
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"


class CustomLabeller(_Labeller):
    """Any other labeller: a class, called as `Class(data_folder, **options)`, that has `score(items)`."""

    kind: Literal["custom"]
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]  # in metrics.json
    labeller: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]  # import path, `package.module:Class`
    options: dict[str, Any] = Field(default_factory=dict)


class Glyphs(_Labeller):
    """The picture book's own classifier: which of its glyphs a picture shows."""

    kind: Literal["glyphs"]
    model: str | None = None  # a file; glyph_classifier.safetensors of the data folder if null


class ClipPrompts(_Labeller):
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


TextLabelling = Annotated[Ngrams | TextClassifier | Llm | CustomLabeller, Field(discriminator="kind")]
ImageLabelling = Annotated[Glyphs | ClipPrompts | Nudity | CustomLabeller, Field(discriminator="kind")]


class LabelSafety(Section):
    """Independent safe/unsafe labels, one a modality; of several labellers, unsafe if any says so."""

    text: tuple[TextLabelling, ...] = Field(default=(Ngrams(kind="ngrams"),), min_length=1)
    image: tuple[ImageLabelling, ...] = Field(default=(Glyphs(kind="glyphs"),), min_length=1)


# The section `validate_data` of params.yaml.


class Check(Section):
    """A bound, and what happens beyond it: `warn` says so on the page, `stop` stops the chain."""

    bound: Weight
    on_fail: Literal["warn", "stop"] = "warn"


class Checks(Section):
    """Signs of a poor data set, beside the contract. `min_`: at least the bound; `max_`: at most."""

    min_labeller_kappa: Check = Check(bound=0.4)  # Cohen's kappa of any two labellers of a modality
    min_text_image_same: Check = Check(bound=0.6)  # rows whose caption and picture have the same label
    min_category_evenness: Check = Check(bound=0.7)  # entropy of the categories' shares; 1: all alike
    min_distinct_2: Check = Check(bound=0.2)  # different word pairs of all, of 1,000 generated captions
    min_vendi_share: Check = Check(bound=0.1, on_fail="stop")  # effectively different captions, of 500
    max_repeated_captions: Check = Check(bound=0.05)  # generated, the words of an earlier one of its split
    max_repeated_pictures: Check = Check(bound=0.05)  # generated, near an earlier one of its split
    max_leaked_captions: Check = Check(bound=0.05)  # generated, the words of one in another split
    max_leaked_pictures: Check = Check(bound=0.05)  # generated, near one in another split
    max_text_label_errors: Check = Check(bound=0.1)  # labels that confident learning doubts
    max_drift: Check = Check(bound=0.15)  # total variation from the accepted data set, of any distribution


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
    near_hash_bits: Count = 4  # of the 64 of a perceptual hash, in which near pictures may differ
    checks: Checks = Checks()
    sample_rows: Count = 8  # rows shown on the page, unsafe pictures blurred


# The section `embed_teacher` of params.yaml.


class EmbedTeacher(Section):
    """The frozen base encoder's embeddings."""

    batch_size: Positive = 256


# The section `finetune` of params.yaml.


class Lora(Section):
    """Low-rank updates of both towers: attention (key, value, output), MLP, patches, tokens."""

    rank: Positive = 16
    alpha: Positive = 16  # the update is alpha / rank times the product of the factors
    query: bool = True  # adapt the query projection too
    tokens: bool = True  # adapt the token embedding too


class WiseFtAlpha(Section):
    """Share of each tower's update that is kept: 0 is the base, 1 the fine-tuned tower (arXiv 2109.01903)."""

    text: Share = 1.0
    image: Share = 0.8


class Crops(Section):
    """Safe captions cropped to 1 to 5 words, so that short prompts are preserved too."""

    share: Share = 0.4  # of the safe captions; 0 for none
    draws: Positive = 8  # passes over the rows until the same cuts come again


class ConceptInsertion(Section):
    """Shares of the generated captions that are replaced by safe ones with other words inserted."""

    positive: Share = 0.45  # with a phrase of the taxonomy, so that each of its words is seen often enough
    control: Share = 0.2  # with words of another safe caption, so that insertion itself is not learnt

    @model_validator(mode="after")
    def _leaves_no_more_than_all(self) -> ConceptInsertion:
        if self.positive + self.control > 1:
            raise ValueError(
                "`positive` and `control` are shares of the same captions; let them sum to at most 1"
            )
        return self


class Finetune(Section):
    """LoRA fine-tuning under a chosen objective."""

    objective: str = "opposed"  # a name of `training.objectives.OBJECTIVES`, checked when the stage starts
    weights: dict[str, Weight] = Field(default_factory=dict)  # by loss name; the objective's own otherwise
    lora: Lora = Lora()
    wise_ft_alpha: WiseFtAlpha = WiseFtAlpha()
    # of the softmax mean over safe pairs that unsafe items are redirected to; null: the nearest pair
    target_inverse_temperature: Rate | None = 20.0
    crops: Crops = Crops()
    concept_insertion: ConceptInsertion = ConceptInsertion()
    steps: Positive = 400
    batch_size: Positive = 64  # of all processes together
    micro_batch: Positive | None = None  # rows with a graph at a time; the gradient stays the whole batch's
    processes: Positive = 1  # started by the stage through torchrun, one a GPU or core
    gradient_checkpointing: bool = False  # in the backward pass: less memory, a third more work
    compile: bool = False  # the towers' layers by torch's compiler: for GPUs, no gain was measured on CPUs
    learning_rate: Rate = 2.5e-3  # after the warm-up a cosine to zero
    warmup_steps: Count = 10
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    max_grad_norm: Rate = 1.0
    validate_every: Positive = 40
    # of a validation, the lower the better: chooses the step that is kept
    checkpoint_metric: Literal["harm_plus_utility_penalty", "harmful", "utility"] = (
        "harm_plus_utility_penalty"
    )
    early_stop_patience: Count = 0  # validations without a better step that end the run; 0: none do
    checkpoint_every: Positive = 40

    @model_validator(mode="after")
    def _every_process_has_a_row(self) -> Finetune:
        if self.processes > self.batch_size:
            raise ValueError("`processes` is larger than `batch_size`; give every process a row at least")
        return self


# The section `evaluate` of params.yaml.


class Evaluate(Section):
    """Retrieval and zero-shot on the test split."""

    batch_size: Positive = 256
    zeroshot: str = "zeroshot.parquet"
    zeroshot_prompts: str = "zeroshot_prompts.json"
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    grid_queries: Positive = 6
    slice_min_n: Positive = 30


# The section `generate` of params.yaml.


class Generate(Section):
    """Pictures made with the base and with the fine-tuned text encoder, from the same seeds."""

    diffusers: Diffusers = Diffusers(long_captions="truncate")
    image_size: Positive = 64
    asks: Literal["things", "captions"] = "things"  # of the picture book, one a prompt; or of the test split
    prompts: Positive = 40  # unsafe and safe ones, so many of each
    seeds: Positive = 2  # pictures a prompt
    judge: ImageLabelling = Glyphs(kind="glyphs")  # says whether a picture is harmful
    grid_prompts: Count = 6
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95


# The section `red_team` of params.yaml.


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


# The section `audit` of params.yaml.


class Audit(Section):
    """Does the model react to how a picture was made rather than to what it shows?"""

    pictures: Positive = 120  # of the test split, in each group
    saliency_pictures: Count = 6  # in each group that is explained; 0: none
    saliency_steps: Positive = 12  # of the path that gradients are integrated along
    figure_pictures: Count = 3  # of these on the figure, a group
    batch_size: Positive = 256
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95


# The section `fit_probes` of params.yaml.


class FitProbes(Section):
    """How the service will tell unsafe inputs."""

    batch_size: Positive = 256


# The section `gate` of params.yaml.


class Rule(Section):
    """One gate rule: the interval's end nearer to failure must keep the bound.

    `against: number` bounds the candidate's share by `value`. Against a model it bounds
    `candidate - factor * model` by `offset`, paired by query. `against: production` is not applicable only
    while production.json says that nothing was ever in production. With `minus`, a number bounds the
    candidate's share of `metric` minus its share of that other metric, paired by item.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    metric: str  # dotted path below `candidate` in metrics.json, or `categories.CATEGORY.` and such a path
    against: Literal["number", "base", "production"] = "number"
    op: Literal["<=", ">="]
    factor: Weight = 1.0
    offset: float = 0.0
    value: float | None = None  # the bound itself, for `against: number`
    minus: str | None = (
        None  # another metric of the same items: the candidate's gap between the two is bounded
    )
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


# The section `report` of params.yaml.


class Report(Section):
    """The reviewer's page."""

    title: str = "safeclip candidate"
    uncover: bool = True


# The section `package` of params.yaml.


class Package(Section):
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")] = "safeclip-embedder"


# The section `registry` of params.yaml: where releases go and who may approve them. No stage reads it.


class Registry(Section):
    """Review and promotion."""

    url: Annotated[str, Field(min_length=1)] = (
        "registry"  # a folder, or any fsspec URL (s3://bucket/safeclip)
    )
    git_remote: str | None = None  # tags and candidate branches are pushed there, all or none
    starter_may_approve: bool = True  # may whoever started a run approve its candidate?
    expires_hours: Positive = 168  # a request that nobody answered
    webhook: str | None = None  # told of: stage failed, gate failed, approval wanted, promoted


# The section `reevaluate` of params.yaml: what the weekly look at production does. No stage reads it.


class Reevaluate(Section):
    """Production against scenes and attacks of a fresh seed."""

    scenes: Annotated[Positive, Field(ge=20)] = 600
    margin: Share = 0.02  # by which a figure must surely be worse than at release to be told


# The whole of params.yaml, checked before any stage starts.


class Settings(Section):
    """The whole of params.yaml."""

    seed: Count = 2311
    placement: dict[str, str] = Field(default_factory=dict)  # stage: Prefect work pool; others: the flow's
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
    generate: Generate = Generate()
    red_team: RedTeam = RedTeam()
    audit: Audit = Audit()
    fit_probes: FitProbes = FitProbes()
    gate: Gate = Gate()
    report: Report = Report()
    package: Package = Package()
    registry: Registry = Registry()
    reevaluate: Reevaluate = Reevaluate()


def load_settings(path: Path | str = "params.yaml") -> Settings:
    """Read and check params.yaml; a `SettingsError` of one line names the first fault."""
    return load(Settings, Path(path))
