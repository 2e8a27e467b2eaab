"""Stage generate: the same prompts and seeds drawn with the base and with the fine-tuned text encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from safeclip.encoders.embed import embed_images, embed_texts
from safeclip.encoders.load import Encoder, load_encoder
from safeclip.encoders.lora import load_candidate
from safeclip.evaluation.frechet import frechet_distance
from safeclip.evaluation.generation import (
    Prompts,
    Verdicts,
    choose_prompts,
    shows_asked,
    summarise_generation,
    write_seed_grid,
)
from safeclip.guard import load_guard
from safeclip.intervals import Resampling
from safeclip.records import read_dataset
from safeclip.settings.generate import Generate
from safeclip.settings.stage import StageSettings
from safeclip.stages.stage import RESULTS, main, output, write_json
from safeclip.synthesis.images import ImageEngine, RenderRequest
from safeclip.synthesis.labels.calibration import calibration_pictures
from safeclip.synthesis.labels.image_choice import image_labeller
from safeclip.synthesis.labels.panel import Panel, seat
from safeclip.taxonomy import load_taxonomy

STAGE = "generate"
DATASET = RESULTS / "validate_data" / "dataset"
ADAPTER = RESULTS / "finetune" / "adapter.safetensors"
Pictures = list[list[bytes | None]]


class Settings(StageSettings):
    generate: Generate = Generate()


def generate(settings: Settings) -> None:
    """results/generate/metrics.json and grids; `measured: false` where there is no diffusion model."""
    model = settings.generate.diffusers.model
    if Path(model).is_relative_to(settings.data.path) and not (Path(model) / "model_index.json").is_file():
        why = f"{model}: no model_index.json; the data set holds no diffusion model"
        with output(STAGE) as out:
            write_json(out / "metrics.json", {"measured": False, "why": why})
        print(f"{STAGE}: not measured ({why})", flush=True)
        return
    _measure(settings)


def _measure(settings: Settings) -> None:
    own, base = settings.generate, load_encoder(Path(settings.data.path) / "base_encoder")
    test = read_dataset(DATASET, "test")
    unsafe, safe = choose_prompts(test, own.prompts)
    real = embed_images(base, test["image_safe"].to_pylist())
    engines = _engines(settings)
    drawn = {name: (_draw(e, unsafe, own.seeds), _draw(e, safe, own.seeds)) for name, e in engines.items()}
    judge = _judge(settings)
    harmful = {name: _harmful(judge, pictures) for name, (pictures, _) in drawn.items()}
    shown, closeness = {}, {}
    for name, (_, pictures) in drawn.items():
        shown[name], closeness[name] = _shown(base, safe, pictures, real)
    how = Resampling(settings.seed, own.bootstrap, own.confidence)
    metrics = summarise_generation(harmful, shown, closeness, how)
    metrics["n"] = {"unsafe_prompts": len(unsafe.ids), "safe_prompts": len(safe.ids), "seeds": own.seeds}
    nothing = {name: np.zeros_like(verdicts.held) for name, verdicts in shown.items()}
    with output(STAGE) as out:
        write_json(out / "metrics.json", metrics)
        (out / "grids").mkdir()
        for kind, prompts, at, blur in (
            ("unsafe", unsafe, 0, {name: verdicts.held for name, verdicts in harmful.items()}),
            ("safe", safe, 1, nothing),
        ):
            shown_on_page = {name: both[at] for name, both in drawn.items()}
            write_seed_grid(out / "grids" / f"{kind}.png", prompts, shown_on_page, blur, own.grid_prompts)
    shares = {name: metrics[name]["unsafe_prompts"]["harmful_pictures"] for name in engines}
    print(f"{STAGE}: harmful pictures on unsafe prompts {shares}", flush=True)


def _engines(settings: Settings) -> dict[str, ImageEngine]:
    """The pipeline as it came, and with the fine-tuned text encoder in it."""
    import torch

    from safeclip.encoders.export import text_encoder_like
    from safeclip.synthesis.diffusers_engine import DiffusersEngine
    from safeclip.synthesis.diffusers_model import load_pipeline

    torch.set_num_threads(settings.compute.threads)
    own, seed = settings.generate, settings.seed
    candidate = load_candidate(Path(settings.data.path) / "base_encoder", ADAPTER).model

    def swapped(how: Any, device: str) -> Any:
        pipeline: Any = load_pipeline(how, device)
        pipeline.text_encoder = text_encoder_like(candidate, pipeline.text_encoder)
        return pipeline

    return {
        "base": DiffusersEngine(own.diffusers, own.image_size, seed=seed),
        "candidate": DiffusersEngine(own.diffusers, own.image_size, seed=seed, load=swapped),
    }


def _draw(engine: ImageEngine, prompts: Prompts, seeds: int) -> Pictures:
    """PNG bytes, or None where the engine gave none, [P][K]. The test split's captions passed the policy."""
    requests = [
        RenderRequest(f"{row}#{seed}", caption, may_be_unsafe=True)
        for row, caption in zip(prompts.ids, prompts.captions, strict=True)
        for seed in range(seeds)
    ]
    images = [picture.image for picture in engine.render(requests)]
    return [images[start : start + seeds] for start in range(0, len(images), seeds)]


def _judge(settings: Settings) -> Panel[bytes]:
    data, own = Path(settings.data.path), settings.generate.judge
    taxonomy = load_taxonomy(data / "taxonomy.yaml")
    calibration = calibration_pictures(data / "calibration", load_guard(), taxonomy.categories)
    phrases = [phrase.text for phrase in taxonomy.phrases]
    return seat((own,), calibration, lambda one, known: image_labeller(one, data, phrases, known))


def _harmful(judge: Panel[bytes], pictures: Pictures) -> Verdicts:
    """A picture that is missing harms nobody, and is counted."""
    flat = [image for row in pictures for image in row]
    there = np.array([image is not None for image in flat])
    held = np.zeros(len(flat), bool)
    if there.any():
        held[there] = judge.decide(judge.score([image for image in flat if image is not None])) >= 0.5
    return Verdicts(held.reshape(len(pictures), -1), int((~there).sum()))


def _shown(
    base: Encoder, prompts: Prompts, pictures: Pictures, real: Tensor
) -> tuple[Verdicts, dict[str, float | None]]:
    """Under the base encoder: whether pictures show their prompts, their mean cosine to them, and how
    far they lie as a whole from the test split's safe pictures (`real`, embedded)."""
    flat = [(row, image) for row, images in enumerate(pictures) for image in images]
    there = [at for at, (_, image) in enumerate(flat) if image is not None]
    asked = np.array([flat[at][0] for at in there], int)
    texts = embed_texts(base, prompts.captions)
    images = embed_images(base, [image for _, image in flat if image is not None])
    held = np.zeros(len(flat), bool)
    held[there] = shows_asked(images, texts, asked)
    similarity = float((images * texts[asked]).sum(dim=1).mean()) if there else 0.0
    return Verdicts(held.reshape(len(pictures), -1), len(flat) - len(there)), {
        "clip_similarity": round(similarity, 6),
        "clip_frechet_distance": frechet_distance(real, images),
    }


if __name__ == "__main__":
    main(generate, Settings)
