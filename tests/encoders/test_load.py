"""Loading: the shipped folder, the exactness of cut text, and one clear line for every kind of bad folder."""

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch

from safeclip.core.errors import ModelError
from safeclip.encoders.load import CONFIG, WEIGHTS, digest_weights, load_encoder
from safeclip.encoders.text_tower import CutTextCLIP, accept_cut_text

BASE = Path("data/base_encoder")
CAPTIONS = ["a dog", "a man walks a dog near the river", "a very long caption " * 30]


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(BASE)


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(BASE, tmp_path / "model"))


def _fault(spec: str | Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_encoder(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_shipped_folder_is_small():
    assert sum(path.stat().st_size for path in BASE.iterdir()) <= 6_000_000


def test_the_shipped_folder_loads_in_fp32_and_eval_mode(encoder):
    assert not encoder.model.training
    assert {p.dtype for p in encoder.model.parameters()} == {torch.float32}
    assert encoder.image_size == 64
    assert len(encoder.digest) == 64


def test_open_clip_loads_the_folder_itself_and_computes_the_same(encoder):
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{BASE}")
    tokens = open_clip.get_tokenizer(f"local-dir:{BASE}")(CAPTIONS)
    with torch.no_grad():
        theirs = model.eval().encode_text(tokens)
        ours = encoder.model.encode_text(encoder.tokenize(CAPTIONS))
    assert (theirs - ours).abs().max() < 1e-5
    assert repr(preprocess) == repr(encoder.transform)


def test_cut_text_is_shorter_and_gives_what_padded_text_gives(encoder):
    short = CAPTIONS[:2]
    cut, padded = encoder.tokenize(short), encoder.tokenizer(short)
    assert cut.shape[1] < padded.shape[1] == encoder.context_length
    with torch.no_grad():
        difference = encoder.model.encode_text(cut) - encoder.model.encode_text(padded)
    assert difference.abs().max() < 1e-5


def test_a_caption_over_the_context_keeps_its_end_token(encoder):
    tokens = encoder.tokenize(CAPTIONS)
    assert tokens.shape == (3, encoder.context_length)
    assert tokens[2, -1] == tokens.max()


def test_a_model_that_looks_both_ways_is_not_cut():
    config = json.loads((BASE / CONFIG).read_text())["model_cfg"]
    config["text_cfg"]["no_causal_mask"] = True
    assert not accept_cut_text(open_clip.model.CLIP(**config))
    config["text_cfg"]["no_causal_mask"] = False
    model = open_clip.model.CLIP(**config)
    assert accept_cut_text(model)
    assert isinstance(model, CutTextCLIP)


def test_the_digest_follows_weights_and_tokenizer(encoder, folder):
    assert load_encoder(str(folder)).digest == encoder.digest
    assert load_encoder(f"local-dir:{folder}").digest == encoder.digest
    (folder / "tokenizer_config.json").write_text((folder / "tokenizer_config.json").read_text() + "\n")
    assert load_encoder(folder).digest != encoder.digest


def test_the_digest_of_weights_sees_one_changed_number(encoder):
    model = load_encoder(BASE).model
    assert digest_weights(model) == digest_weights(encoder.model)
    model.logit_scale.data += 1e-6
    assert digest_weights(model) != digest_weights(encoder.model)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert f"{folder / name}: no such file" in _fault(folder)


def test_a_missing_tokenizer_is_named(folder):
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / name).unlink()
    assert "vocab.json" in _fault(folder)


def test_a_missing_vocabulary_alone_is_named(folder):
    (folder / "vocab.json").unlink()
    assert "vocab.json" in _fault(folder)


def test_truncated_weights_are_named(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])
    assert f"{folder / WEIGHTS}: not readable as safetensors" in _fault(folder)


def test_a_configuration_that_is_no_json_is_named(folder):
    (folder / CONFIG).write_text("{")
    assert f"{folder / CONFIG}: not valid JSON" in _fault(folder)


def test_a_configuration_without_a_section_is_named(folder):
    config = json.loads((folder / CONFIG).read_text())
    del config["model_cfg"]["vision_cfg"]
    (folder / CONFIG).write_text(json.dumps(config))
    assert "model_cfg.vision_cfg" in _fault(folder)


@pytest.mark.parametrize("change", [{"width": 64}, {"vocab_size": 100}, {"colour": 1}])
def test_a_configuration_that_does_not_fit_the_weights_is_refused(folder, change):
    config = json.loads((folder / CONFIG).read_text())
    config["model_cfg"]["text_cfg"].update(change)
    (folder / CONFIG).write_text(json.dumps(config))
    assert str(folder) in _fault(folder)


def test_pickled_weights_are_never_loaded(folder):
    torch.save(load_encoder(folder).model.state_dict(), folder / "open_clip_pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    assert "never" in _fault(folder)


def test_a_name_that_is_nothing_is_refused_with_what_is_possible():
    message = _fault("no/such/model")
    assert "ViT-L-14/openai" in message


@pytest.mark.parametrize("spec", ["ViT-B-32/no_such_tag", "ViT-B-32/"])
def test_an_unknown_tag_is_refused(spec):
    assert spec in _fault(spec)
