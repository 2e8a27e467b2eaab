"""Own zero-shot sets: class folders and webdataset shards give what a table gives; faults are one line."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from safeclip.core.errors import DataError
from safeclip.evaluation.zeroshot import ZEROSHOT, read_zeroshot, set_digest, zeroshot_correct
from tests.training.tiny import tiny_encoder

CLASSES = ("dog", "fire_engine")


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


ITEMS = [(CLASSES[number % 2], f"{number}", png(number)) for number in range(8)]
SORTED = sorted(ITEMS, key=lambda item: item[:2])


def tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    (tmp_path / "prompts.json").write_text(json.dumps({"templates": ["a {}", "the {}"]}))
    return tmp_path / "prompts.json"


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for kind, name, data in ITEMS:
        (tmp_path / "set" / kind).mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / kind / f"{name}.png").write_bytes(data)
    (tmp_path / "set" / ".DS_Store").write_bytes(b"x")
    return tmp_path / "set"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in (0, 1):
        members = []
        for kind, name, data in SORTED[4 * shard : 4 * shard + 4]:
            label = str(CLASSES.index(kind)).encode()
            members += [(f"{name}.cls", label), (f"{name}.png", data), (f"{name}.json", b"{}")]
        tar(folder / f"{shard}.tar", members)
    (folder / "classnames.txt").write_text("\n".join(CLASSES))
    return folder


def test_folders_shards_and_a_table_give_the_same_result(
    folders: Path, shards: Path, prompts: Path, tmp_path: Path
) -> None:
    rows = [{"image": data, "label": kind} for kind, _, data in SORTED]
    pq.write_table(pa.Table.from_pylist(rows, schema=ZEROSHOT), tmp_path / "set.parquet")
    encoder = tiny_encoder(tmp_path / "encoder")
    tasks = [read_zeroshot(path, prompts) for path in (tmp_path / "set.parquet", folders, shards)]
    assert [task.labels for task in tasks] == [[kind for kind, _, _ in SORTED]] * 3
    assert tasks[1].called == [["dog"], ["fire engine"]]
    correct = [zeroshot_correct(encoder, task, 3).tolist() for task in tasks]
    assert correct[0] == correct[1] == correct[2]


def test_one_shard_alone_is_a_set(shards: Path, prompts: Path) -> None:
    both = shards.parent / "mixed.tar"
    tar(both, [("1.png", png(1)), ("1.cls", b"dog"), ("2.jpg", png(2)), ("2.cls", b"boat"), ("d/", b"")])
    assert read_zeroshot(both, prompts).labels == ["dog", "boat"]


def test_a_class_may_have_several_names_and_one_without_pictures_competes(
    folders: Path, prompts: Path
) -> None:
    names = {"dog": ["dog", "hound"], "cat": "cat"}
    prompts.write_text(json.dumps({"templates": ["a {}"], "classes": names}))
    task = read_zeroshot(folders, prompts)
    assert task.classes == ["cat", "dog", "fire_engine"]
    assert task.called == [["cat"], ["dog", "hound"], ["fire engine"]]


def test_the_digest_changes_with_a_picture_and_with_its_class(folders: Path) -> None:
    before = set_digest(folders)
    (folders / "dog" / "0.png").rename(folders / "fire_engine" / "0.png")
    moved = set_digest(folders)
    (folders / "fire_engine" / "0.png").write_bytes(png(99))
    assert len({before, moved, set_digest(folders)}) == 3


def spoil_folders(folder: Path, fault: str) -> None:
    if fault == "no class":
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    elif fault == "one class":
        for path in (folder / "dog").iterdir():
            path.unlink()
        (folder / "dog").rmdir()
    elif fault == "empty class":
        (folder / "cat").mkdir()
    elif fault == "other file":
        (folder / "dog" / "notes.txt").write_text("x")
    else:
        (folder / "dog" / "0.png").write_bytes(png(0)[:60])


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("no class", r"set: neither folders of pictures"),
        ("one class", r"set: 1 class; zero-shot needs at least two"),
        ("empty class", r"cat: a class without pictures"),
        ("other file", r"notes.txt: not a jpg, jpeg, png, webp file; remove it"),
        ("cut short", r"dog/0.png: not a readable .*; replace or drop it"),
    ],
)
def test_a_fault_in_the_folders_is_one_line(
    folders: Path, prompts: Path, tmp_path: Path, fault: str, line: str
) -> None:
    spoil_folders(folders, fault)
    with pytest.raises(DataError, match=line) as told:
        zeroshot_correct(tiny_encoder(tmp_path / "encoder"), read_zeroshot(folders, prompts), 4)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("members", "line"),
    [
        ([("1.png", b"x")], r"0.tar/1: has no class \(.cls\)"),
        ([("1.cls", b"0")], r"0.tar/1: has no picture"),
        ([("1.cls", b"7"), ("1.png", b"x")], r"0.tar/1: class '7' is not among the 2 of classnames.txt"),
        ([("1.cls", b" "), ("1.png", b"x")], r"0.tar/1: its class is empty"),
        ([("1.cls", b"0"), ("1.png", b"x"), ("1.jpg", b"x")], r"1.jpg: a second picture of 1"),
    ],
)
def test_a_fault_in_a_shard_is_one_line(shards: Path, prompts: Path, members: list, line: str) -> None:
    tar(shards / "0.tar", members)
    with pytest.raises(DataError, match=line):
        read_zeroshot(shards, prompts)


@pytest.mark.parametrize("keep", [0, 3, 700, 1200])
def test_a_shard_that_was_cut_short_is_one_line(shards: Path, prompts: Path, keep: int) -> None:
    whole = (shards / "0.tar").read_bytes()
    (shards / "0.tar").write_bytes(whole[:keep])
    with pytest.raises(DataError, match=r"0\.tar"):
        read_zeroshot(shards, prompts)


@pytest.mark.parametrize("classes", [{"dog": []}, {"dog": ""}, {"dog": [1]}, ["dog"], {"dog": {"a": 1}}])
def test_names_that_are_none_are_one_line(folders: Path, prompts: Path, classes: object) -> None:
    prompts.write_text(json.dumps({"templates": ["a {}"], "classes": classes}))
    with pytest.raises(DataError, match="`classes` must give each class its names"):
        read_zeroshot(folders, prompts)


def test_a_missing_set_is_one_line(prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_zeroshot(tmp_path / "nowhere", prompts)
