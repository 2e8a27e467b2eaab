"""The diffusion script: a killed run ends with the same weights, its folder is small and standard."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from safeclip.encoders.export import text_encoder_like
from safeclip.encoders.load import load_encoder
from safeclip.errors import ModelError
from safeclip.synthesis.labels.glyph_classifier import load_classifier

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import train_diffusion
from diffusion_scenes import draw_scenes
from resumable import Resumable

from safeclip.picturebook.lexicon import find_entries


def _run(file: Path, steps: int, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))

    def loss(step: int) -> torch.Tensor:
        if step == stop_at:
            raise KeyboardInterrupt
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return model(inputs).square().mean()

    return Resumable(model, file, steps=steps, learning_rate=0.01).run(loss, save_every=2).state_dict()


def test_a_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = _run(tmp_path / "whole.pt", 6)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "killed.pt", 6, stop_at=5)
    resumed = _run(tmp_path / "killed.pt", 6)
    assert all(torch.equal(whole[name], tensor) for name, tensor in resumed.items())


def test_scenes_depend_on_seed_step_and_purpose_alone() -> None:
    one, same = draw_scenes(1, 2, "judge", 6), draw_scenes(1, 2, "judge", 6)
    assert one.captions == same.captions
    assert torch.equal(one.pixels, same.pixels)
    assert draw_scenes(1, 2, "denoiser", 6).captions != one.captions
    assert all(1 <= len(find_entries(caption)) <= 2 for caption in draw_scenes(1, 3, "judge", 40).captions)


def test_a_drawing_counts_as_showing_what_was_drawn() -> None:
    judge = load_classifier(Path("data/glyph_classifier.safetensors"))
    scenes = draw_scenes(5, 0, "test", 40)
    least = train_diffusion.found_from(judge, seed=9)
    with torch.no_grad():
        logits = judge((scenes.pixels + 1) / 2)
    shown = [logits[row, judge.names.index(drawn[0])] > least for row, drawn in enumerate(scenes.glyphs)]
    other = [logits[row - 1, judge.names.index(drawn[0])] > least for row, drawn in enumerate(scenes.glyphs)]
    assert sum(map(bool, shown)) >= 36
    assert sum(map(bool, other)) <= 6


def test_what_it_writes_is_a_small_standard_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = ["--autoencoder-steps", "1", "--denoiser-steps", "1", "--scenes", "2"]
    args = train_diffusion.parse_args(["--out", str(tmp_path / "out"), "--work", str(tmp_path / "w"), *steps])
    assert set(train_diffusion.train(args)) == {"n", "found", "top1", "by_chance"}
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    base = load_encoder("data/base_encoder").model
    pipeline.text_encoder = text_encoder_like(base, pipeline.text_encoder)  # the one line of a swap
    size = sum(file.stat().st_size for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert 4e6 < size <= 8e6
    monkeypatch.setattr(train_diffusion, "LARGEST_MB", 0.1)
    with pytest.raises(ModelError, match=r"more than 0\.1; choose a smaller width"):
        train_diffusion.export(pipeline, tmp_path / "other")
    assert not (tmp_path / "other").exists()
