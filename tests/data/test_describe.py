"""What `safeclip data describe` says of a data set and of its change, and what it shows of it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from dvc.repo import Repo
from PIL import Image

from safeclip import cli
from safeclip.core.records import QUADRUPLETS, write_table
from safeclip.data.describing import change_lines, compare
from safeclip.synthesis.captions import SafeCaption
from tests.support.toy import PROJECT, run

UNSAFE = "a man with a gun near the harbour"


def captions(count: int) -> list[dict]:
    return [
        {
            "id": f"row-{number:02d}",
            "split": ("train", "val", "test")[number % 3],
            "caption": f"a dog with {number} apples",
            "source": "test",
            "image": None,
        }
        for number in range(count)
    ]


def write_captions(folder: Path, rows: list[dict]) -> None:
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def stripes() -> bytes:
    """Two-pixel stripes: what is left of them shows whether an image was blurred."""
    buffer = io.BytesIO()
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, ::4] = pixels[:, 1::4] = 255
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_quadruplets(folder: Path) -> None:
    for split in ("train", "val", "test"):
        rows = [
            dict.fromkeys(QUADRUPLETS.names, "x")
            | {"id": f"{split}-{n}", "split": split, "caption_generated": UNSAFE, "categories": ["violence"]}
            | {"image_safe": stripes(), "image_generated": stripes(), "seed": 1}
            | {"text_label": "unsafe", "image_label": "safe", "text_score": 0.9, "image_score": 0.1}
            for n in range(2)
        ]
        write_table(folder / f"{split}-00000.parquet", rows, QUADRUPLETS)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC project with 12 captions committed, then changed; quadruplets lie in results/."""
    root = tmp_path_factory.mktemp("described") / "project"
    shutil.copytree(
        PROJECT / "data", root / "data", ignore=shutil.ignore_patterns("base_encoder", "*.safetensors")
    )
    shutil.copy(PROJECT / "params.yaml", root)
    (root / "dvc.yaml").write_text("stages: {}\n")
    write_captions(root / "data", captions(12))
    for command in (["init", "-q"], ["config", "user.name", "a"], ["config", "user.email", "a@b.c"]):
        run(root, "git", *command)
    Repo.init(str(root)).close()
    with chdir(root), Repo(".") as repo:
        repo.add("data")
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "-qm", "data")
    changed = captions(13)[1:]
    changed[1] |= {"caption": "a cat with 2 apples"}
    changed[2] |= {"split": "val"}
    write_captions(root / "data", changed)
    write_quadruplets(root / "results/validate_data/dataset")
    return root


@pytest.fixture(autouse=True)
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


def test_numbers_and_change(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["data", "describe"]) == 0
    out = capsys.readouterr().out
    for line in (
        "data: 12 safe captions, 100 curated pairs",
        "train       3: 5 to 5 words",
        "zero-shot   600 images, 60 classes",
        "quadruplets train 2, val 2, test 2",
        "text unsafe, image safe: 6",
        "1 rows added: row-12",
        "1 rows removed: row-00",
        "1 rows moved: row-03",
        "1 rows reworded: row-02",
        "modified: data/captions.jsonl",
    ):
        assert line in out, line
    assert "apples" not in out
    assert "gun" not in out


def test_the_sheet_blurs_what_was_generated(tmp_path: Path) -> None:
    assert cli.main(["data", "describe", "--sheet", str(tmp_path / "sheet.html"), "--rows", "2"]) == 0
    page = (tmp_path / "sheet.html").read_text()
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    shown = re.findall(r'src="data:image/png;base64,([^"]+)" alt="([^"]+)"', page)
    kinds = [alt for _, alt in shown]
    assert kinds.count("drawn") == 6
    contrast = {
        alt: np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"), float).std()
        for data, alt in shown
        if alt != "drawn"
    }
    assert contrast["safe image"] > 100
    assert contrast["generated image, blurred"] < 5
    assert page.count(UNSAFE) == page.count(f"<summary>generated caption</summary>{UNSAFE}") == 6


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--against", "nothing"], "nothing: git knows no such revision"),
        (["nowhere"], "nowhere/captions.jsonl: cannot be read"),
    ],
)
def test_a_wrong_request_is_one_line(capsys: pytest.CaptureFixture, arguments: list[str], line: str) -> None:
    assert cli.main(["data", "describe", *arguments]) == 1
    err = capsys.readouterr().err
    assert line in err
    assert len(err.splitlines()) == 1


def test_a_folder_that_the_other_version_lacks_is_all_new() -> None:
    rows = [SafeCaption.model_validate(row) for row in captions(2)]
    told = change_lines(None, rows, {})
    assert told == ["no captions there: all of this is new", "2 rows added: row-00, row-01"]
    other = rows[0].model_copy(update={"image": "images/a.png"})
    assert compare(rows, [other, rows[1]]).parts == {"repainted": ["row-00"]}
