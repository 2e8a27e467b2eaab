"""The towers as they are served give what the encoder gives, whatever the batch and wherever it pools."""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from safeclip.core.errors import SettingsError
from safeclip.encoders.load import CONFIG, load_encoder
from safeclip.serving import middleware as limits
from safeclip.serving.embedder import PARITY
from safeclip.serving.towers import Towers

BASE = Path(__file__).resolve().parents[2] / "data" / "base_encoder"
TEXTS = ["a dog", "two apples on a table near the river", "a " * 200, "boats"]


@pytest.mark.parametrize("vision", [{}, {"pool_type": "avg"}, {"final_ln_after_pool": True}])
def test_served_towers_equal_the_encoder_for_any_number_of_inputs(
    vision: dict[str, Any], tmp_path: Path
) -> None:
    folder = shutil.copytree(BASE, tmp_path / "encoder")
    config = json.loads((folder / CONFIG).read_text())
    config["model_cfg"]["vision_cfg"] |= vision
    (folder / CONFIG).write_text(json.dumps(config))
    encoder = load_encoder(folder)
    encoder.model.requires_grad_(False)
    tokens = encoder.tokenize(TEXTS)
    pixels = torch.randn(
        4, 3, encoder.image_size, encoder.image_size, generator=torch.Generator().manual_seed(1)
    )
    texts = encoder.model.encode_text(tokens, normalize=True)
    images = encoder.model.encode_image(pixels, normalize=True)
    served = Towers(encoder)
    for rows in (1, 3, 4):
        torch.testing.assert_close(served.texts(tokens[:rows]), texts[:rows], rtol=0, atol=1e-6)
        torch.testing.assert_close(served.images(pixels[:rows]), images[:rows], rtol=0, atol=1e-6)


def test_towers_in_bfloat16_stay_close_and_give_unit_vectors() -> None:
    encoder = load_encoder(BASE)
    encoder.model.requires_grad_(False)
    tokens = encoder.tokenize(TEXTS)
    texts = encoder.model.encode_text(tokens, normalize=True)
    served = Towers(encoder, torch.bfloat16).texts(tokens)
    assert served.dtype == torch.float32
    assert 1e-6 < (served - texts).abs().max() < PARITY["bfloat16"]
    torch.testing.assert_close(served.norm(dim=-1), torch.ones(4))


def test_an_unknown_precision_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFECLIP_PRECISION", "int3")
    with pytest.raises(SettingsError, match="SAFECLIP_PRECISION = 'int3': must be float32 or bfloat16"):
        importlib.reload(limits)
    monkeypatch.undo()
    importlib.reload(limits)
