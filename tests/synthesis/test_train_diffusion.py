"""The diffusion script: a killed run ends with the same weights, its folder is small and standard."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from picturebook.glyph_classifier import load_classifier
from safeclip.core.errors import ModelError
from safeclip.encoders.export import text_encoder_like
from safeclip.encoders.load import load_encoder

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import diffusion_autoencoder
import diffusion_denoiser
import train_diffusion
from diffusion_scenes import draw_scenes
from resumable import Resumable

from picturebook.lexicon import find_entries


def _run(file: Path, steps: int, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    model: torch.nn.Module = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3), torch.nn.BatchNorm2d(16))

    def loss(step: int) -> torch.Tensor:
        if step == stop_at:
            raise KeyboardInterrupt
        inputs = torch.randn(8, 16, 3, 3, generator=torch.Generator().manual_seed(step))
        return model(inputs).square().mean()

    training = Resumable(model, file, steps=steps, learning_rate=0.5, decay=0.9)
    return training.run(loss, save_every=2).state_dict()


def test_a_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = _run(tmp_path / "whole.pt", 6)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "killed.pt", 6, stop_at=5)
    resumed = _run(tmp_path / "killed.pt", 6)
    assert all(torch.equal(whole[name], tensor) for name, tensor in resumed.items())


def test_the_rate_falls_late_so_that_a_run_can_be_lengthened(tmp_path: Path) -> None:
    def rates(steps: int) -> list[float]:
        model = torch.nn.Linear(16, 16)
        training = Resumable(
            model, tmp_path / "none.pt", steps=steps, learning_rate=1, decay=0.9, falling=0.2
        )
        found = []
        for step in range(steps):
            training.step = step
            found.append(training.schedule())
        return found

    short, long = rates(500), rates(1000)
    assert short[:400] == long[:400]
    assert short[0] < 0.01
    assert short[300] == 1.0
    assert 0 < short[-1] < 0.001


def test_scenes_depend_on_seed_and_purpose_alone() -> None:
    one, same = draw_scenes(1, "judge", 40), draw_scenes(1, "judge", 40)
    assert one.captions == same.captions
    assert torch.equal(one.pixels, same.pixels)
    assert draw_scenes(1, "denoiser", 40).captions != one.captions
    assert all(1 <= len(find_entries(caption)) <= 2 for caption in one.captions)


def test_half_way_the_encoder_stands_still_and_the_decoder_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SCENES", 16), ("BATCH_SIZE", 2)):
        monkeypatch.setattr(diffusion_autoencoder, name, value)

    def weights(still_from: int) -> dict[str, torch.Tensor]:
        monkeypatch.setattr(diffusion_autoencoder, "ENCODER_STEPS", still_from)
        run = tmp_path / str(still_from)
        run.mkdir()
        diffusion_autoencoder.train_autoencoder(run, seed=1, steps=3)
        state: dict[str, torch.Tensor] = torch.load(run / "autoencoder.pt", weights_only=True)["model"]
        return state

    torch.manual_seed(1)
    start = diffusion_autoencoder.new_autoencoder().state_dict()
    still, moved = weights(0), weights(3)
    for name, tensor in start.items():
        assert torch.equal(tensor, still[name]) == name.startswith("encoder"), name
    assert any(
        not torch.equal(start[name], tensor) for name, tensor in moved.items() if name.startswith("encoder")
    )


def test_a_noisy_latent_is_pulled_to_its_own_drawing_and_pure_noise_to_the_mean_of_its_kind() -> None:
    training = object.__new__(diffusion_denoiser.DenoiserTraining)
    training.scheduler = diffusion_denoiser.new_scheduler()
    generator = torch.Generator().manual_seed(1)
    training.latents = torch.randn(6, 16, 8, 8, generator=generator)
    training.peers = diffusion_denoiser.rows_of_same([("dog",), ("cat",)] * 3, 400, seed=1)
    assert all(row % 2 == peer % 2 for row, peers in enumerate(training.peers.tolist()) for peer in peers)
    rows, noise = torch.tensor([0, 1]), torch.randn(2, 16, 8, 8, generator=generator)

    def pulled_to(time: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        times = torch.tensor([time, time])
        noisy = training.scheduler.add_noise(training.latents[rows], noise, times)
        return noisy, times, training.mean_of_peers(noisy, rows, times)

    noisy, times, mean = pulled_to(200)
    assert torch.allclose(mean, training.latents[rows], atol=1e-4)
    expected = training.scheduler.get_velocity(training.latents[rows], noise, times)
    assert torch.allclose(training.velocity(noisy, mean, times), expected, atol=1e-3)
    kinds = torch.stack([training.latents[0::2].mean(dim=0), training.latents[1::2].mean(dim=0)])
    assert torch.allclose(pulled_to(999)[2], kinds, atol=0.2)


def test_a_drawing_counts_as_showing_what_was_drawn() -> None:
    judge = load_classifier(Path("data/glyph_classifier.safetensors"))
    scenes = draw_scenes(5, "test", 40)
    least = train_diffusion.found_from(judge, seed=9)
    with torch.no_grad():
        logits = judge(scenes.pixels.permute(0, 3, 1, 2) / 255)
    shown = [logits[row, judge.names.index(drawn[0])] > least for row, drawn in enumerate(scenes.glyphs)]
    other = [logits[row - 1, judge.names.index(drawn[0])] > least for row, drawn in enumerate(scenes.glyphs)]
    assert sum(map(bool, shown)) >= 36
    assert sum(map(bool, other)) <= 6


def test_what_it_writes_is_a_small_standard_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (diffusion_autoencoder, diffusion_denoiser):
        monkeypatch.setattr(module, "SCENES", 32)
    monkeypatch.setattr(train_diffusion, "CALIBRATION", 32)
    monkeypatch.setattr(train_diffusion, "SAMPLING_STEPS", 2)
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
