"""A transformers classifier, tiny and built on the spot; what it cannot be is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
)

from safeclip.core.errors import ModelError
from safeclip.labels.text import ClassifierTextLabeller
from tests.labels.tiny_words import CAPTIONS, WORDS, tokenizer_in


def bert_config(**more: object) -> BertConfig:
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    names = {"id2label": {0: "fine", 1: "Toxic"}, "label2id": {"fine": 0, "Toxic": 1}}
    return BertConfig(vocab_size=len(WORDS), **small, **(names | more))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that was taught in a few steps that a gun is toxic."""
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    model = BertForSequenceClassification(bert_config())
    ids, labels = torch.tensor([[2, 3, 4, 2, 5], [2, 3, 4, 2, 6]]), torch.tensor([1, 0])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer_in(folder)
    return folder


def test_a_classifier_s_unsafe_class_is_the_score_whatever_the_batch(classifier: Path) -> None:
    scores = ClassifierTextLabeller(str(classifier), ["toxic"], batch_size=1).score(CAPTIONS)
    assert scores.dtype == np.float32
    assert scores[1] > 0.5 > scores[0]
    together = ClassifierTextLabeller(str(classifier), ["toxic"], batch_size=4).score(CAPTIONS)
    np.testing.assert_allclose(scores, together, atol=1e-5)
    everything = ClassifierTextLabeller(str(classifier), ["toxic", "fine"], batch_size=4)
    np.testing.assert_allclose(everything.score(CAPTIONS), 1.0, atol=1e-6)
    assert everything.score([]).shape == (0,)


def test_a_multi_label_classifier_says_its_surest_class(classifier: Path, tmp_path: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(
        classifier, problem_type="multi_label_classification"
    )
    model.save_pretrained(tmp_path)
    tokenizer_in(tmp_path)
    both = ClassifierTextLabeller(str(tmp_path), ["toxic", "fine"], batch_size=4).score(CAPTIONS)
    one = ClassifierTextLabeller(str(tmp_path), ["toxic"], batch_size=4).score(CAPTIONS)
    assert (both >= one).all()
    assert ((both > 0) & (both < 1)).all()


@pytest.mark.parametrize("unsafe", [["unsafe"], []])
def test_a_classifier_without_the_unsafe_class_is_refused_with_its_classes(
    classifier: Path, unsafe: list[str]
) -> None:
    with pytest.raises(ModelError, match="its classes are fine, Toxic"):
        ClassifierTextLabeller(str(classifier), unsafe, batch_size=4)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_with_a_missing_file_is_named(classifier: Path, tmp_path: Path, missing: str) -> None:
    for file in classifier.iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="no text classifier to load") as error:
        ClassifierTextLabeller(str(tmp_path), ["toxic"], batch_size=4)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_without_a_trained_head_is_refused_and_not_filled_with_noise(tmp_path: Path) -> None:
    BertModel(bert_config()).save_pretrained(tmp_path)
    tokenizer_in(tmp_path)
    with pytest.raises(ModelError, match="has no weights for classifier"):
        ClassifierTextLabeller(str(tmp_path), ["toxic"], batch_size=4)
