"""A row's picture is its own; faults of folder, caption, picture and memory are told; work is kept."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from safeclip.core.errors import ModelError
from safeclip.settings import Diffusers
from safeclip.synthesis.diffusers_engine import DiffusersEngine, load_pipeline, pictures_digest
from safeclip.synthesis.images import KeptPictures, Rendered, RenderRequest
from tests.support.params import make_settings
from tests.synthesis.tiny_pipeline import save_tiny_pipeline

CAPTIONS = ["a dog near the river", "a man with a gun", "two cats", "a bomb on a table", "the moon"]
REQUESTS = [RenderRequest(f"row-{n}", caption) for n, caption in enumerate(CAPTIONS)]
LONG = RenderRequest("row-9", "an owl and " * 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("pipeline") / "tiny")


def settings(folder: Path, **changes: Any) -> Diffusers:
    small = {"model": str(folder), "steps": 2, "batch_size": 2, "guidance": 2.0}
    return make_settings(render_images={"diffusers": small | changes}).render_images.diffusers


def engine(folder: Path, kept: KeptPictures | None = None, **changes: Any) -> DiffusersEngine:
    return DiffusersEngine(settings(folder, **changes), 16, seed=1, kept=kept)


def pixels(picture: Rendered) -> np.ndarray:
    assert picture.image is not None, picture.reason
    return np.asarray(Image.open(io.BytesIO(picture.image))).astype(int)


@pytest.fixture(scope="module")
def pictures(folder: Path) -> list[Rendered]:
    return list(engine(folder).render(REQUESTS))


def test_every_request_gets_its_picture_in_order(pictures: list[Rendered]) -> None:
    assert [picture.id for picture in pictures] == [request.id for request in REQUESTS]
    assert {pixels(picture).shape for picture in pictures} == {(16, 16, 3)}
    assert {picture.shows for picture in pictures} == {None}
    assert len({picture.image for picture in pictures}) == len(pictures)


def test_a_rows_picture_does_not_depend_on_what_else_is_rendered(
    folder: Path, pictures: list[Rendered]
) -> None:
    assert list(engine(folder).render(REQUESTS)) == pictures  # the same bytes
    for batch_size in (1, 5):
        again = list(engine(folder, batch_size=batch_size).render(REQUESTS))
        assert max(np.abs(pixels(a) - pixels(b)).max() for a, b in zip(again, pictures, strict=True)) <= 1
    (alone,) = engine(folder).render(REQUESTS[3:4])
    assert np.abs(pixels(alone) - pixels(pictures[3])).max() <= 1
    (other_seed,) = DiffusersEngine(settings(folder), 16, seed=2).render(REQUESTS[:1])
    assert other_seed != pictures[0]


def test_scheduler_steps_and_type_are_the_ones_asked_for(folder: Path) -> None:
    loaded: Any = load_pipeline(settings(folder, scheduler="euler", dtype="bfloat16"), "cpu")
    assert type(loaded.scheduler).__name__ == "EulerDiscreteScheduler"
    assert loaded.unet.dtype == torch.bfloat16


def test_finished_micro_batches_are_taken_up_again(
    folder: Path, tmp_path: Path, pictures: list[Rendered]
) -> None:
    kept = KeptPictures(tmp_path / "kept", "digest")
    dying = engine(folder, kept)
    calls = _count_calls(dying, fail_after=2)
    with pytest.raises(KeyboardInterrupt):
        list(dying.render(REQUESTS))
    assert len(calls) == 3
    resumed = engine(folder, kept)
    calls = _count_calls(resumed)
    assert list(resumed.render(REQUESTS)) == pictures
    assert len(calls) == 1  # the third micro-batch alone
    next(tmp_path.rglob("*.parquet")).write_bytes(b"cut short")
    assert list(resumed.render(REQUESTS)) == pictures
    KeptPictures(tmp_path / "kept", "other settings")
    assert not list(tmp_path.rglob("*.parquet"))


def test_kept_pictures_go_when_the_stage_ends_well(
    folder: Path, tmp_path: Path, pictures: list[Rendered]
) -> None:
    kept = KeptPictures(tmp_path / "kept", "digest")
    assert list(engine(folder, kept).render(REQUESTS)) == pictures
    assert list(tmp_path.rglob("*.parquet"))
    kept.remove()
    assert not list(tmp_path.rglob("*.parquet"))


def test_another_job_finds_no_kept_picture(folder: Path) -> None:
    same = pictures_digest(settings(folder), 16, seed=1, threads=1)
    assert same == pictures_digest(settings(folder), 16, seed=1, threads=1)
    assert same != pictures_digest(settings(folder, steps=3), 16, seed=1, threads=1)
    assert same != pictures_digest(settings(folder), 16, seed=2, threads=1)


def test_out_of_memory_halves_the_batch(folder: Path, pictures: list[Rendered]) -> None:
    small = engine(folder, batch_size=4)
    sizes = _limit_memory(small, most=1)
    again = list(small.render(REQUESTS))
    assert sizes == [4, 2, 1, 1, 1, 1, 1]
    assert max(np.abs(pixels(a) - pixels(b)).max() for a, b in zip(again, pictures, strict=True)) <= 1
    none = engine(folder)
    _limit_memory(none, most=0)
    with pytest.raises(ModelError, match="not even one picture of 16 pixels fits in memory; lower"):
        list(none.render(REQUESTS))


def test_other_runtime_errors_are_not_taken_for_memory(folder: Path) -> None:
    broken = engine(folder)
    broken._pipeline.unet.forward = lambda *_, **__: (_ for _ in ()).throw(RuntimeError("size mismatch"))
    with pytest.raises(RuntimeError, match="size mismatch"):
        list(broken.render(REQUESTS))


def test_a_caption_that_is_too_long_is_refused_or_cut_and_said(folder: Path) -> None:
    first, long = engine(folder).render([REQUESTS[0], LONG])
    assert first.image is not None
    assert (long.image, long.reason) == (None, "caption of 122 tokens, the text encoder reads 40")
    cutting = engine(folder, long_captions="truncate")
    assert all(picture.image for picture in cutting.render([REQUESTS[0], LONG]))
    assert cutting.truncated == ["row-9"]


@pytest.mark.parametrize(
    ("value", "reason"), [(0.0, "of one colour"), (0.6, "of one colour"), (float("nan"), "no numbers")]
)
def test_a_picture_that_shows_nothing_is_rejected(folder: Path, value: float, reason: str) -> None:
    blank = engine(folder)
    decode = blank._pipeline.vae.decode
    blank._pipeline.vae.decode = lambda *a, **k: tuple(
        torch.full_like(t, 2 * value - 1) for t in decode(*a, **k)
    )
    (picture,) = blank.render(REQUESTS[:1])
    assert picture.image is None
    assert reason in picture.reason


def test_the_safety_checker_rests_only_where_policy_allows(folder: Path) -> None:
    class FlagsAll(torch.nn.Linear):
        def forward(self, images: Any, clip_input: Any) -> Any:
            return images, [True] * len(images)

    checked = engine(folder)
    pipeline = checked._pipeline
    pipeline.feature_extractor = lambda picture, return_tensors: type(
        "", (), {"pixel_values": torch.zeros(1)}
    )
    checked._checker = FlagsAll(1, 1)
    allowed = RenderRequest("row-1", CAPTIONS[1], may_be_unsafe=True)
    stopped, let_through = checked.render([REQUESTS[0], allowed])
    assert (stopped.image, stopped.reason) == (None, "stopped by the pipeline's safety checker")
    assert let_through.image is not None


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        ("model_index.json", r"model_index\.json: no such file; give a folder"),
        ("unet/config.json", r"unet: named in model_index\.json, but has no configuration"),
        ("vae/diffusion_pytorch_model.safetensors", r"vae: no \.safetensors file; restore it"),
        ("tokenizer/tokenizer_config.json", r"tokenizer: named in model_index\.json, but has no config"),
    ],
)
def test_a_missing_file_is_named(folder: Path, tmp_path: Path, broken: str, fault: str) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / broken).unlink()
    with pytest.raises(ModelError, match=fault) as caught:
        load_pipeline(settings(copy), "cpu")
    assert "\n" not in str(caught.value)


def test_cut_weights_and_other_pipelines_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ModelError, match="no pipeline to load"):
        load_pipeline(settings(copy), "cpu")
    index = json.loads((folder / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index)[:-5])
    with pytest.raises(ModelError, match="not valid JSON"):
        load_pipeline(settings(copy), "cpu")
    with pytest.raises(ModelError, match=r"data/nowhere/model_index\.json: no such file"):
        load_pipeline(settings(Path("data/nowhere")), "cpu")


def _count_calls(target: DiffusersEngine, fail_after: int = 99) -> list[int]:
    run, calls = target._run, []

    def counted(batch: Any) -> list[Rendered]:
        calls.append(len(batch))
        if len(calls) > fail_after:
            raise KeyboardInterrupt
        return run(batch)

    target._run = counted  # type: ignore[method-assign]
    return calls


def _limit_memory(target: DiffusersEngine, most: int) -> list[int]:
    """As if no more than `most` pictures fitted: a real shortage cannot be had without a GPU."""
    run, sizes = target._run, []

    def limited(batch: Any) -> list[Rendered]:
        sizes.append(len(batch))
        if len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return run(batch)

    target._run = limited  # type: ignore[method-assign]
    return sizes
