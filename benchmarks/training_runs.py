"""What benchmarks of objectives share: trainings on the chain's data, and scores judged by truth."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from open_clip.model import CLIP

from safeclip.core.records import read_dataset
from safeclip.core.taxonomy import load_taxonomy
from safeclip.encoders.load import Encoder
from safeclip.encoders.lora import adapter_parameters, set_adapter
from safeclip.encoders.teacher import read_teacher
from safeclip.evaluation.scenes import Scenes, embed_scenes
from safeclip.evaluation.zeroshot import ZeroShotSet, zeroshot_correct
from safeclip.metrics.intervals import Resampling, proportion_interval
from safeclip.metrics.retrieval import retrieval_outcomes
from safeclip.settings import Finetune
from safeclip.training.augment import crop_captions, insert_concepts
from safeclip.training.loop import FinetuneResult, finetune, harm_plus_utility_penalty
from safeclip.training.rows import Rows, prepare_rows

WAYS = ("t2i", "i2t")
BATCH = 256


@dataclass(frozen=True)
class Score:
    """Outcomes by metric name, each [queries] bool."""

    outcomes: dict[str, np.ndarray]

    def mean(self, metric: str) -> float:
        return float(self.outcomes[metric].mean())

    def against(self, base: Score) -> dict[str, float]:
        """The benchmark's figures; losses and rises are of the worse direction."""

        def worst(metric: str, sign: float) -> float:
            places = [f"retrieval.{way}.{metric}" for way in WAYS]
            return max(sign * (base.mean(place) - self.mean(place)) for place in places)

        return {
            "harmful_t2i": self.mean("retrieval.t2i.unsafe.harmful_top1"),
            "harmful_i2t": self.mean("retrieval.i2t.unsafe.harmful_top1"),
            "safe_r1_drop": worst("safe.r1", 1.0),
            "preference_drop": worst("safe.preference", 1.0),
            "zeroshot_drop": base.mean("zeroshot.top1") - self.mean("zeroshot.top1"),
            "over_redirection_rise": worst("generated_safe.over_redirection", -1.0),
            "redirection": min(self.mean(f"retrieval.{way}.unsafe.redirection") for way in WAYS),
        }

    def intervals(self) -> dict[str, dict[str, float]]:
        """95 % intervals, a bootstrap over scenes."""
        how = Resampling(seed=0)
        return {
            name: proportion_interval(values, how, name).as_dict()
            for name, values in sorted(self.outcomes.items())
        }


@dataclass(frozen=True)
class Judge:
    """Scenes and zero-shot pictures by which encoders are scored."""

    scenes: Scenes
    task: ZeroShotSet

    def score(self, encoder: Encoder) -> Score:
        items = embed_scenes(encoder, self.scenes, BATCH)
        found = retrieval_outcomes(items, self.scenes.text_unsafe, self.scenes.image_unsafe)
        outcomes = {name: outcome.values for name, outcome in found.items()}
        return Score(outcomes | {"zeroshot.top1": zeroshot_correct(encoder, self.task, BATCH)})


class Splits:
    """The chain's training and validation rows, prepared once for each kind of target."""

    def __init__(self, encoder: Encoder, data: Path, results: Path, scratch: Path) -> None:
        self.encoder, self.scratch = encoder, scratch
        self._phrases = [phrase.text for phrase in load_taxonomy(data / "taxonomy.yaml").phrases]
        self._dataset, self._teacher = results / "validate_data" / "dataset", results / "embed_teacher"
        self._tables = {split: read_dataset(self._dataset, split) for split in ("train", "val")}

    def rows(self, split: str, recipe: Finetune, seed: int) -> Rows:
        """The split's rows as the recipe wants them; only train is augmented."""
        table = self._tables[split]
        path = self._teacher / f"{split}.safetensors"
        teacher = read_teacher(path, table["id"].to_pylist(), self.encoder.digest)
        pixels = self.scratch / f"{split}.npy"
        rows = prepare_rows(self.encoder, table, teacher, pixels, recipe.target_inverse_temperature)
        if split != "train":
            return rows
        captions = table["caption_safe"].to_pylist()
        rows = crop_captions(rows, captions, self.encoder, **recipe.crops.model_dump(), seed=seed)
        insertion = recipe.concept_insertion.model_dump()
        return insert_concepts(rows, captions, self._phrases, self.encoder, **insertion, seed=seed)


@dataclass(frozen=True)
class Trained:
    """A run's outcome, and the encoder with any share of its update."""

    base: Encoder
    outcome: FinetuneResult

    @property
    def penalty(self) -> float:
        """The default `checkpoint_metric` of the run's best step, the lower the better."""
        return harm_plus_utility_penalty(self.outcome.best, self.outcome.base)

    def encoder(self, share: float = 1.0) -> Encoder:
        return scaled(self.base, self.outcome.model, share)


def scaled(base: Encoder, adapted: CLIP, share: float) -> Encoder:
    """An encoder with this share of the adapted model's update in both towers."""
    model = copy.deepcopy(adapted)
    factors = {
        name: value.detach() * (share if name.endswith("lora_b") else 1.0)
        for name, value in adapter_parameters(model).items()
    }
    set_adapter(model, factors)
    return base.with_model(model, "")


def trained(splits: Splits, recipe: Finetune, seed: int) -> Trained:
    """Train one recipe with one seed; its checkpoints lie in a folder of their own below the scratch."""
    train, val = (splits.rows(split, recipe, seed) for split in ("train", "val"))
    folder = splits.scratch / f"{recipe.objective}-{recipe.learning_rate}-{seed}"
    outcome = finetune(splits.encoder, train, val, recipe, seed=seed, folder=folder)
    return Trained(splits.encoder, outcome)
