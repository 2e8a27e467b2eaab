"""The stage generate: same prompts and seeds for both encoders, honest shares, nothing claimed unmeasured."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from safeclip.encoders.export import to_text_encoder
from safeclip.encoders.load import load_encoder
from safeclip.encoders.lora import add_lora, save_adapter
from safeclip.errors import DataError
from safeclip.evaluation.generation import Verdicts, choose_prompts, shows_asked, summarise_generation
from safeclip.intervals import Resampling
from safeclip.picturebook.drawing import draw
from safeclip.records import QUADRUPLETS, write_table
from safeclip.settings.diffusers import Diffusers
from safeclip.settings.generate import Generate
from safeclip.stages.generate import Settings, generate
from tests.synthesis.tiny_pipeline import BASE, save_tiny_pipeline


def table(labels: list[str]) -> pa.Table:
    picture = draw("a dog", "photo", 1).png
    rows = [
        {
            "id": f"row-{n}", "split": "test", "caption_safe": f"a dog and {n % 3} cats",
            "caption_generated": f"a dog with a gun {n}", "image_safe": picture, "image_generated": picture,
            "concept": "a gun", "categories": ["violence"], "text_label": label, "text_score": 0.5,
            "image_label": "unsafe", "image_score": 0.5, "rewriter": "t", "image_model": "t", "seed": 1,
            "source": "t",
        }
        for n, label in enumerate(labels)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=QUADRUPLETS)


def test_prompts_are_unsafe_captions_and_distinct_safe_ones() -> None:
    unsafe, safe = choose_prompts(table(["unsafe", "safe", "unsafe", "unsafe"]), 2)
    assert unsafe.ids == ["row-0", "row-2"]
    assert unsafe.hidden == ["[unsafe caption: violence]"] * 2
    assert safe.captions == ["a dog and 0 cats", "a dog and 1 cats"]
    with pytest.raises(DataError, match="no unsafe or no safe caption"):
        choose_prompts(table(["safe", "safe"]), 2)


def test_a_picture_shows_its_prompt_if_no_other_is_nearer() -> None:
    texts = torch.eye(3)
    images = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.2, 0.9]])
    assert shows_asked(images, texts, np.array([0, 1])).tolist() == [True, False]


def test_shares_and_change() -> None:
    base, after = np.ones((40, 2), bool), np.zeros((40, 2), bool)
    after[:10, 0] = True
    harmful = {"base": Verdicts(base, 0), "candidate": Verdicts(after, 3)}
    shown = {"base": Verdicts(base, 0), "candidate": Verdicts(after, 0)}
    closeness = {name: {"clip_similarity": 0.3} for name in ("base", "candidate")}
    found = summarise_generation(harmful, shown, closeness, Resampling(1, 200))
    assert found["base"]["safe_prompts"]["clip_similarity"] == 0.3
    assert found["candidate"]["unsafe_prompts"]["harmful_pictures"] == 0.125
    assert found["candidate"]["unsafe_prompts"]["harmful_any_seed"]["estimate"] == 0.25
    assert found["candidate"]["unsafe_prompts"]["lost_pictures"] == 3
    change = found["change"]["harmful_any_seed"]
    assert (change["estimate"], change["n"]) == (-0.75, 40)
    assert change["low"] < -0.75 < change["high"] < 0


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("base_encoder", "calibration", "glyph_classifier.safetensors", "taxonomy.yaml"):
        os.symlink(BASE.parent / name, tmp_path / "data" / name)
    write_table(
        tmp_path / "results/validate_data/dataset/test-00000.parquet", table(["unsafe"] * 4), QUADRUPLETS
    )
    encoder = load_encoder(BASE)
    add_lora(encoder.model, rank=2, alpha=2)
    with torch.no_grad():
        for name, parameter in encoder.model.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(std=0.5)
    (tmp_path / "results/finetune").mkdir()
    save_adapter(encoder.model, tmp_path / "results/finetune/adapter.safetensors", base_digest=encoder.digest)
    return tmp_path


def test_without_a_diffusion_model_it_is_not_measured(project: Path) -> None:
    generate(Settings())
    metrics = json.loads((project / "results/generate/metrics.json").read_text())
    assert metrics == {
        "measured": False,
        "why": "data/diffusion: no model_index.json; the data set holds no diffusion model",
    }


def test_both_encoders_draw_the_same_prompts_and_seeds(project: Path) -> None:
    save_tiny_pipeline(project / "data/diffusion", to_text_encoder(load_encoder(BASE).model))
    how = Generate(
        diffusers=Diffusers(steps=1), image_size=16, prompts=3, seeds=2, bootstrap=100, grid_prompts=2
    )
    generate(Settings(generate=how))
    out = project / "results/generate"
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["measured"]
    assert metrics["n"] == {"unsafe_prompts": 3, "safe_prompts": 3, "seeds": 2}
    similarity = [metrics[name]["safe_prompts"]["clip_similarity"] for name in ("base", "candidate")]
    assert similarity[0] != similarity[1]  # the swap reached the pictures
    assert metrics["base"]["safe_prompts"]["clip_frechet_distance"] is None  # six pictures are too few
    assert sorted(path.name for path in (out / "grids").iterdir()) == ["safe.png", "unsafe.png"]
    first = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    generate(Settings(generate=how))
    assert {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()} == first
