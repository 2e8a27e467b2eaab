"""A folder of one's own becomes a data set of the contract's shape; the unusable is named, the rest stays."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from safeclip.core.errors import DataError
from safeclip.data.importing import ImportPlan, import_data
from safeclip.evaluation.zeroshot import read_zeroshot
from safeclip.synthesis.captions import load_captions
from safeclip.synthesis.images import read_image
from tests.data.photos import caption, encoded, photo, remarks, write_coco, write_list

Plan = Callable[..., ImportPlan]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_coco_folder_becomes_a_data_set(tmp_path: Path, plan: Plan) -> None:
    done = import_data(plan(write_coco(tmp_path / "coco", 40)))
    made = tmp_path / "made"
    captions = load_captions(made / "captions.jsonl")
    assert sum(done.splits.values()) == len(captions) == 40
    assert {row.split for row in captions} == {"train", "val", "test"}
    assert captions[3].id == "coco-000000000003"
    assert captions[3].caption == caption(3)
    for row in captions:
        assert read_image(made, row.id, row.image or "", row.image_sha256).startswith(b"\xff\xd8")
    assert len(read_zeroshot(made / "zeroshot.parquet", made / "zeroshot_prompts.json").classes) > 1
    assert (made / "base_encoder" / "open_clip_model.safetensors").is_file()


def test_the_same_source_gives_the_same_bytes(tmp_path: Path, plan: Plan) -> None:
    source = write_list(tmp_path / "photos", 20)
    import_data(plan(source))
    import_data(plan(source, out=tmp_path / "again"))
    assert files(tmp_path / "made") == files(tmp_path / "again")


def test_adding_images_moves_no_other_to_another_split(tmp_path: Path, plan: Plan) -> None:
    import_data(plan(write_list(tmp_path / "photos", 20)))
    import_data(plan(write_list(tmp_path / "photos", 30), out=tmp_path / "more"))
    before, after = (
        {row.id: row.split for row in load_captions(tmp_path / name / "captions.jsonl")}
        for name in ("made", "more")
    )
    assert before.items() <= after.items()


def test_a_table_in_an_old_encoding(tmp_path: Path, plan: Plan) -> None:
    source = write_list(tmp_path / "photos", 15).with_name("list.csv")
    (source.parent / "list.jsonl").unlink()
    lines = [f"{number}.jpg;Un café nº {number} près de la rivière" for number in range(15)]
    source.write_bytes("\r\n".join(["image;caption", *lines, ""]).encode("latin-1"))
    import_data(plan(source.parent))
    row = next(row for row in load_captions(tmp_path / "made/captions.jsonl") if row.source == "7.jpg")
    assert row.caption == "Un café nº 7 près de la rivière"
    assert remarks(tmp_path / "made", "note")["7.jpg"] == "not UTF-8, read as Windows-1252"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path, plan: Plan, encoding: str) -> None:
    source = write_list(tmp_path / "photos", 15).with_name("list.csv")
    text = io.StringIO()
    rows = [["file", "caption"], *([f"{number}.jpg", f'{caption(number)} "quoted"'] for number in range(15))]
    csv.writer(text).writerows(rows)
    source.write_bytes(text.getvalue().encode(encoding))
    assert sum(import_data(plan(source)).splits.values()) == 15


def test_webdataset_shards(tmp_path: Path, plan: Plan) -> None:
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "shards" / f"{shard:05d}.tar", "w") as archive:
            for number in range(8 * shard, 8 * shard + 8):
                text = caption(number).encode()
                named = (
                    ("json", json.dumps({"caption": caption(number)}).encode()) if shard else ("txt", text)
                )
                for extension, data in (("jpg", encoded(photo(number))), named):
                    member = tarfile.TarInfo(f"deep/{number:06d}.{extension}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    assert sum(import_data(plan(tmp_path / "shards")).splits.values()) == 16


def test_near_duplicates_share_a_split(tmp_path: Path, plan: Plan) -> None:
    source = write_list(tmp_path / "photos", 30)
    lines = source.read_text().splitlines()
    for number in range(30):
        brighter = Image.open(source.parent / f"{number}.jpg").point(lambda level: min(255, level + 9))
        (source.parent / f"copy-{number}.jpg").write_bytes(encoded(brighter.resize((80, 60)), quality=60))
        lines.append(json.dumps({"file": f"copy-{number}.jpg", "caption": f"Seen again: {caption(number)}"}))
    source.write_text("\n".join(lines))
    import_data(plan(source))
    split = {row.source: row.split for row in load_captions(tmp_path / "made/captions.jsonl")}
    assert len(split) == 60
    assert all(split[f"{number}.jpg"] == split[f"copy-{number}.jpg"] for number in range(30))
    assert remarks(tmp_path / "made", "note")["copy-4.jpg"] == "alike, kept in one split (with 4.jpg)"


def test_suspects_are_named_and_dropped_on_request(tmp_path: Path, plan: Plan) -> None:
    source = write_list(tmp_path / "photos", 20)
    (source.parent / "knife.jpg").write_bytes(encoded(photo(600)))
    with source.open("a") as file:
        file.write(json.dumps({"file": "knife.jpg", "caption": "A knife on a table"}) + "\n")
    import_data(plan(source))
    assert remarks(tmp_path / "made", "suspect") == {
        "knife.jpg": "its caption names what the taxonomy lists under violence"
    }
    import_data(plan(source, out=tmp_path / "strict", drop_suspects=True))
    assert set(remarks(tmp_path / "strict")) == {"knife.jpg"}
    assert len(list((tmp_path / "strict" / "images").iterdir())) == 20


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"zeroshot": "nowhere"}, "--zeroshot nowhere: no such folder"),
        ({"images": Path("nowhere")}, "nowhere: no such folder; give the images' folder with --images"),
        ({"base": Path("nowhere")}, "nowhere/taxonomy.yaml: no such file"),
        ({"val": 0.0}, "split 'val' would be empty"),
    ],
)
def test_a_wrong_request_is_one_line_and_leaves_nothing(
    tmp_path: Path, plan: Plan, changes: dict, line: str
) -> None:
    source = write_list(tmp_path / "photos", 20)
    request = plan(source)
    with pytest.raises(DataError, match=line):
        import_data(ImportPlan(**(vars(request) | changes)))
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.json", "[1]", "`images` is no list; give a COCO caption file"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", "[" * 100_000, "not valid JSON"),
        ("a.json", '{"images": [], "annotations": []}', "holds no items"),
        ("a.csv", "one,two,three\n", "no columns `file` and `caption`"),
        ("a.csv", 'file,caption\n"' + "x" * 200_000, r"a.csv:2: not CSV \(field larger"),
        ("a.jsonl", "", "holds no items"),
        ("a.tar", "not an archive", "1 of 1 items rejected"),
        ("a.zip", "PK", "none of .csv, .json"),
    ],
)
def test_an_unusable_source_is_one_line(
    tmp_path: Path, plan: Plan, name: str, content: str, line: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=line) as caught:
        import_data(plan(tmp_path / name))
    assert len(str(caught.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_existing_folder_is_never_written_over(tmp_path: Path, plan: Plan) -> None:
    (tmp_path / "made").mkdir()
    with pytest.raises(DataError, match="made: exists; name a folder that does not"):
        import_data(plan(write_list(tmp_path / "photos", 4)))


def test_a_zeroshot_set_of_class_folders_or_none(tmp_path: Path, plan: Plan) -> None:
    source = write_list(tmp_path / "photos", 20)
    for number, kind in enumerate(("fire_truck", "boat")):
        (tmp_path / "classes" / kind).mkdir(parents=True)
        (tmp_path / "classes" / kind / "1.png").write_bytes(encoded(photo(700 + number), "PNG"))
    import_data(plan(source, zeroshot=str(tmp_path / "classes")))
    import_data(plan(source, zeroshot="none", out=tmp_path / "bare"))
    sets = [
        read_zeroshot(tmp_path / n / "zeroshot.parquet", tmp_path / n / "zeroshot_prompts.json")
        for n in ("made", "bare")
    ]
    assert [task.labels for task in sets] == [["boat", "fire truck"], []]
