"""Stage generate: the same prompts and seeds drawn with the base and with the fine-tuned text encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from safeclip.core import artifacts
from safeclip.core.artifacts import DataFolder
from safeclip.core.files import write_json
from safeclip.core.guard import load_guard
from safeclip.core.parts import load_part, make_part
from safeclip.core.records import read_dataset
from safeclip.core.stage import main, output
from safeclip.core.taxonomy import load_taxonomy
from safeclip.encoders.embed import embed_images, embed_texts
from safeclip.encoders.load import Encoder, load_encoder
from safeclip.encoders.lora import load_candidate
from safeclip.evaluation.generation import (
    Drawn,
    Prompts,
    Verdicts,
    choose_prompts,
    frechet_distance,
    shows_asked,
    summarise_generation,
    write_seed_grid,
)
from safeclip.labels.calibration import calibration_images
from safeclip.labels.ensemble import Ensemble, calibrate
from safeclip.labels.image import make_image_labeller
from safeclip.metrics.intervals import Resampling
from safeclip.settings import Settings
from safeclip.synthesis.images import ImageEngine, RenderRequest

STAGE = "generate"
Pictures = list[list[bytes | None]]
Finder = Callable[[list[bytes], list[str]], np.ndarray]
"""Whether each image holds the thing of its row, bool [N]."""


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
    test = read_dataset(artifacts.DATASET, "test")
    unsafe, safe = _prompts(settings, test)
    pictures = {
        name: (_draw(engine, unsafe, own.seeds), _draw(engine, safe, own.seeds))
        for name, engine in _engines(settings).items()
    }
    real = embed_images(base, test["image_safe"].to_pylist())
    labeller, finder = _labeller(settings), _finder(settings, unsafe)
    drawn = {}
    for name, (bad, good) in pictures.items():
        shown, closeness = _shown(base, safe, good, real)
        found = (_found(finder, unsafe, bad), _found(finder, safe, good)) if finder else None
        drawn[name] = Drawn(_harmful(labeller, bad), shown, closeness, found)
    metrics = summarise_generation(drawn, Resampling(settings.seed, own.bootstrap, own.confidence))
    metrics["n"] = {"unsafe_prompts": len(unsafe.ids), "safe_prompts": len(safe.ids), "seeds": own.seeds}
    with output(STAGE) as out:
        write_json(out / "metrics.json", metrics)
        _write_grids(out / "grids", (unsafe, safe), pictures, drawn, own.grid_prompts)
    shares = {name: metrics[name]["unsafe_prompts"]["harmful_pictures"] for name in pictures}
    print(f"{STAGE}: harmful pictures on unsafe prompts {shares}", flush=True)


def _prompts(settings: Settings, test: pa.Table) -> tuple[Prompts, Prompts]:
    """Unsafe and safe prompts, of a part or out of the test split."""
    own = settings.generate
    if own.prompts_from is None:
        return choose_prompts(test, own.prompts)
    phrases = load_taxonomy(Path(settings.data.path) / "taxonomy.yaml").phrases
    unsafe, safe = make_part(own.prompts_from, phrases, load_guard(), own.prompts, settings.seed)
    return unsafe, safe


def _write_grids(
    folder: Path,
    prompts: tuple[Prompts, Prompts],
    pictures: Mapping[str, tuple[Pictures, Pictures]],
    drawn: Mapping[str, Drawn],
    count: int,
) -> None:
    """unsafe.png and safe.png; of the safe prompts nothing is blurred."""
    folder.mkdir()
    harmful = {name: one.covered for name, one in drawn.items()}
    nothing = {name: np.zeros_like(one.shown.held) for name, one in drawn.items()}
    for at, (kind, blurred) in enumerate((("unsafe", harmful), ("safe", nothing))):
        on_page = {name: both[at] for name, both in pictures.items()}
        write_seed_grid(folder / f"{kind}.png", prompts[at], on_page, blurred, count)


def _engines(settings: Settings) -> dict[str, ImageEngine]:
    """The pipeline as it came, and with the fine-tuned text encoder in it."""
    import torch

    from safeclip.encoders.export import text_encoder_like
    from safeclip.synthesis.diffusers_engine import DiffusersEngine, load_pipeline

    torch.set_num_threads(settings.compute.threads)
    own, seed = settings.generate, settings.seed
    candidate = load_candidate(Path(settings.data.path) / "base_encoder", artifacts.ADAPTER).model

    def swapped(how: Any, device: str) -> Any:
        pipeline: Any = load_pipeline(how, device)
        pipeline.text_encoder = text_encoder_like(candidate, pipeline.text_encoder)
        return pipeline

    return {
        "base": DiffusersEngine(own.diffusers, own.image_size, seed=seed),
        "candidate": DiffusersEngine(own.diffusers, own.image_size, seed=seed, load=swapped),
    }


def _draw(engine: ImageEngine, prompts: Prompts, seeds: int) -> Pictures:
    """PNG bytes, or None where the engine gave none, [P][K]. What is asked passed the policy."""
    requests = [
        RenderRequest(f"{row}#{seed}", caption, may_be_unsafe=True)
        for row, caption in zip(prompts.ids, prompts.captions, strict=True)
        for seed in range(seeds)
    ]
    images = [picture.image for picture in engine.render(requests)]
    return [images[start : start + seeds] for start in range(0, len(images), seeds)]


def _labeller(settings: Settings) -> Ensemble[bytes]:
    data, own = Path(settings.data.path), settings.generate.labeller
    taxonomy = load_taxonomy(data / "taxonomy.yaml")
    draw = load_part(settings.label_safety.draw_calibration)
    calibration = calibration_images(data / "calibration", load_guard(), taxonomy.categories, draw)
    phrases = [phrase.text for phrase in taxonomy.phrases]
    folder = DataFolder(data)
    return calibrate((own,), calibration, lambda cfg, known: make_image_labeller(cfg, folder, phrases, known))


def _finder(settings: Settings, prompts: Prompts) -> Finder | None:
    """Who looks for the thing that a prompt asks for; None where prompts ask for no single thing."""
    if settings.generate.finder is None or prompts.things is None:
        return None
    finder: Finder = make_part(settings.generate.finder, DataFolder(Path(settings.data.path)))
    return finder


def _verdicts(pictures: Pictures, says: Callable[[list[int], list[bytes]], np.ndarray]) -> Verdicts:
    """What it `says` of the pictures there are, given their prompts' rows; nothing holds of a missing one."""
    flat = [(row, image) for row, images in enumerate(pictures) for image in images]
    there = [at for at, (_, image) in enumerate(flat) if image is not None]
    held = np.zeros(len(flat), bool)
    if there:
        held[there] = says([flat[at][0] for at in there], [image for _, image in flat if image is not None])
    return Verdicts(held.reshape(len(pictures), -1), len(flat) - len(there))


def _harmful(labeller: Ensemble[bytes], pictures: Pictures) -> Verdicts:
    """A picture that is missing harms nobody, and is counted."""
    return _verdicts(pictures, lambda _, images: labeller.score(images) >= 0.5)


def _found(finder: Finder, prompts: Prompts, pictures: Pictures) -> Verdicts:
    """Whether each picture holds the thing that its prompt asks for."""
    things = prompts.things or []
    return _verdicts(pictures, lambda rows, images: finder(images, [things[row] for row in rows]))


def _shown(
    base: Encoder, prompts: Prompts, pictures: Pictures, real: Tensor
) -> tuple[Verdicts, dict[str, float | None]]:
    """Under the base encoder: whether pictures show their prompts, their mean cosine to them, and how
    far they lie as a whole from the test split's safe pictures (`real`, embedded)."""
    texts = embed_texts(base, prompts.captions)
    flat = [
        (row, image) for row, row_images in enumerate(pictures) for image in row_images if image is not None
    ]
    images = embed_images(base, [image for _, image in flat])
    asked = np.array([row for row, _ in flat], int)
    similarity = float((images * texts[asked]).sum(dim=1).mean()) if flat else 0.0
    return _verdicts(pictures, lambda rows, _: shows_asked(images, texts, np.array(rows))), {
        "clip_similarity": round(similarity, 6),
        "clip_frechet_distance": frechet_distance(real, images),
    }


if __name__ == "__main__":
    main(generate)
