"""Safe/unsafe caption-picture JSON of the published kind, and encoders side by side on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from picturebook.drawing import draw
from safeclip.cli import main
from safeclip.core.errors import DataError
from safeclip.encoders.export_folder import write_transformers
from safeclip.encoders.load import load_encoder
from safeclip.evaluation.pairs import read_pairs
from tests.support.toy import PROJECT

WORDS = ["dog", "cat", "car", "apple", "tree", "boat"]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    entries = []
    for number, word in enumerate(WORDS):
        for kind, caption in (("safe", f"a woman with a {word}"), ("unsafe", f"a {word} and a gun")):
            (tmp_path / f"{number}-{kind}.png").write_bytes(draw(caption, "photo", number).png)
        entries.append(
            {
                "safe": f"a woman with a {word}",
                "nsfw": f"a {word} and a gun",
                "image_safe": f"{number}-safe.png",
                "image_nsfw": f"{number}-unsafe.png",
            }
        )
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(entries))
    return path


def changed(path: Path, **fields: Any) -> Path:
    entries = json.loads(path.read_text())
    entries[1].update(fields)
    path.write_text(json.dumps(entries))
    return path


def test_published_names_and_ours_say_the_same(pairs: Path) -> None:
    scenes = read_pairs(pairs)
    assert scenes.captions_safe[0] == "a woman with a dog"
    assert scenes.text_unsafe.all()
    lines = [
        json.dumps(
            {
                "caption_safe": entry["safe"],
                "caption_generated": entry["nsfw"],
                "image_safe": entry["image_safe"],
                "image_generated": entry["image_nsfw"],
                "text_label": "safe",
            }
        )
        for entry in json.loads(pairs.read_text())
    ]
    pairs.with_suffix(".jsonl").write_text("\n".join(lines))
    ours = read_pairs(pairs.with_suffix(".jsonl"))
    assert ours.captions_generated == scenes.captions_generated
    assert not ours.text_unsafe.any()
    assert ours.image_unsafe.all()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"nsfw": ""}, "scene 2: no caption_generated; name it 'caption_generated' or 'nsfw' or 'unsafe'"),
        ({"image_safe": "none.png"}, r"scene 2: picture 'none\.png' cannot be read"),
        ({"image_safe": "../../etc/passwd"}, "scene 2: picture .* lies outside"),
        ({"image_safe": "pairs.json"}, r"scene 2: picture 'pairs\.json': not a readable PNG"),
        ({"text_label": "bad"}, "scene 2: text_label is 'bad'; say safe or unsafe"),
        ({"id": "000001"}, "id '000001' stands twice"),
    ],
)
def test_a_scene_that_cannot_be_used_is_named(pairs: Path, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_pairs(changed(pairs, **fields))


@pytest.mark.parametrize("text", ["", "[]", "{", '["a"]', "\x00"])
def test_a_file_without_scenes_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pairs.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"pairs\.json: (must hold scenes|not JSON)"):
        read_pairs(path)


def test_two_encoders_stand_side_by_side(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where there is no zero-shot set
    base = PROJECT / "data/base_encoder"
    write_transformers(load_encoder(base), base, "transformers", tmp_path / "clip")
    numbers = tmp_path / "scores.json"
    arguments = ["--model", str(base), str(tmp_path / "clip"), "--data", str(pairs), "--json", str(numbers)]
    assert main(["evaluate", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "retrieval.t2i.safe.r1" in shown
    assert "zeroshot" not in shown
    ours, theirs = json.loads(numbers.read_text()).values()
    assert ours == theirs  # the same weights in another library's layout score the same
    assert ours["retrieval.t2i.safe.r1"]["n"] == len(WORDS)
