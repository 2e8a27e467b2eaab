"""Zero-shot: hand-computed answers, prompt ensembles, and files that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from safeclip.core.errors import DataError
from safeclip.encoders.embed import embed_texts
from safeclip.evaluation.zeroshot import ZEROSHOT, class_embeddings, read_zeroshot, top1_correct
from tests.training.tiny import tiny_encoder


def write_set(folder: Path, labels: list[str], prompts: object) -> tuple[Path, Path]:
    rows = [{"image": b"png", "label": label} for label in labels]
    pq.write_table(pa.Table.from_pylist(rows, schema=ZEROSHOT), folder / "zeroshot.parquet")
    (folder / "prompts.json").write_text(json.dumps(prompts))
    return folder / "zeroshot.parquet", folder / "prompts.json"


def test_top1_by_hand() -> None:
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.7071, 0.7071]])
    classes = torch.eye(2)
    correct = top1_correct(images, classes, ["boat", "boat", "dog", "boat"], ["boat", "dog"])
    assert correct.tolist() == [True, False, True, True]  # the last is a tie: the first class wins


def test_a_class_is_the_normalised_mean_of_its_prompts(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path / "encoder")
    weights = class_embeddings(encoder, [["boat"], ["dog"]], ["a {}", "the {} near a tree"], 32)
    mean = embed_texts(encoder, ["a dog", "the dog near a tree"]).mean(0)
    assert weights.norm(dim=1).tolist() == pytest.approx([1.0, 1.0])
    assert torch.allclose(weights[1], mean / mean.norm(), atol=1e-5)


def test_reads_pictures_and_prompts(tmp_path: Path) -> None:
    task = read_zeroshot(*write_set(tmp_path, ["dog", "boat", "dog"], {"templates": ["a {}"]}))
    assert task.classes == ["boat", "dog"]
    assert task.ids == ["zeroshot-000000", "zeroshot-000001", "zeroshot-000002"]


@pytest.mark.parametrize(
    ("labels", "prompts", "line"),
    [
        (["dog", "dog"], {"templates": ["a {}"]}, "at least two"),
        (["dog", "boat"], {"templates": ["a thing"]}, "class name"),
        (["dog", "boat"], {"templates": []}, "class name"),
        (["dog", "boat"], ["a {}"], "class name"),
    ],
)
def test_an_unusable_set_is_one_line(tmp_path: Path, labels: list[str], prompts: object, line: str) -> None:
    with pytest.raises(DataError, match=line):
        read_zeroshot(*write_set(tmp_path, labels, prompts))


def test_a_table_without_rows_says_that_there_is_no_set(tmp_path: Path) -> None:
    assert read_zeroshot(*write_set(tmp_path, [], {"templates": ["a {}"]})).ids == []


def test_a_missing_prompt_file_is_one_line(tmp_path: Path) -> None:
    pictures, prompts = write_set(tmp_path, ["dog", "boat"], {})
    prompts.unlink()
    with pytest.raises(DataError, match="no such file"):
        read_zeroshot(pictures, prompts)
