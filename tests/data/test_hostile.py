"""What is unusable or hostile among the items is named, and the rest goes on."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safeclip.core.errors import DataError
from safeclip.data.importing import ImportPlan, import_data
from tests.data.photos import caption, claiming, encoded, photo, remarks, write_list

Plan = Callable[..., ImportPlan]


def test_an_archive_cannot_reach_out_and_a_broken_one_is_named(tmp_path: Path, plan: Plan) -> None:
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(14):
            for extension, data in (("jpg", encoded(photo(number))), ("txt", caption(number).encode())):
                prefix = "../../escaped/" if number == 3 else ""
                member = tarfile.TarInfo(f"{prefix}{number:06d}.{extension}")
                member.size = len(data)
                if number == 4 and extension == "jpg":
                    member.type, member.linkname, member.size, data = tarfile.SYMTYPE, "/etc/passwd", 0, b""
                archive.addfile(member, io.BytesIO(data))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 12_000])
    import_data(plan(path))
    assert not (tmp_path.parent / "escaped").exists()
    assert not (tmp_path / "escaped").exists()
    found = remarks(tmp_path / "made")
    assert found["shard.tar/000004"] == "is a link or a device in the archive, not a file"
    assert found["shard.tar"].startswith("the archive is broken here (unexpected end of data)")


def spoiled(folder: Path) -> Path:
    """20 good images of odd kinds and names, and one of everything that is wrong."""
    source = write_list(folder, 20)
    good = [json.loads(line) for line in source.read_text().splitlines()]
    outside = folder.parent / "secret.jpg"
    outside.write_bytes(encoded(photo(500)))
    (folder / "link.jpg").symlink_to(outside)
    os.mkfifo(folder / "pipe.jpg")
    bad = {
        "empty.jpg": b"",
        "words.jpg": b"not an image",
        "cut.jpg": encoded(photo(501))[:1500],
        "tiny.png": encoded(photo(502, (20, 90)), "PNG"),
        "plain.png": encoded(Image.new("RGB", (64, 64), "red"), "PNG"),
        "twin.png": encoded(Image.open(folder / "5.jpg"), "PNG"),
        "bomb.png": claiming(encoded(photo(503), "PNG"), 9_000, 9_000),
        "floats.tif": encoded(Image.fromarray(np.ones((64, 64), np.float32)), "TIFF"),
    }
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    names = [
        *bad,
        "link.jpg",
        "pipe.jpg",
        "gone.jpg",
        "../secret.jpg",
        str(outside),
        "..\\secret.jpg",
        "a\0b.jpg",
    ]
    lines = [{"file": name, "caption": f"{caption(100 + at)}"} for at, name in enumerate(names)]
    lines += [{"file": "0.jpg", "caption": caption(200)}]  # twice in the list
    lines += [{"file": "1.jpg"}, {"caption": caption(201)}, ["a", "list"], {"file": "2b.jpg", "caption": 7}]
    (folder / "empty-words.jpg").write_bytes(encoded(photo(503)))
    (folder / "endless.jpg").write_bytes(encoded(photo(504)))
    (folder / "echo.jpg").write_bytes(encoded(photo(505)))
    lines += [
        {"file": "empty-words.jpg", "caption": " \u200b…\t"},
        {"file": "endless.jpg", "caption": "word " * 60},
        {"file": "echo.jpg", "caption": caption(6).upper()},
    ]
    text = "\n".join(json.dumps(line) for line in [*good, *lines]) + "\n{broken\n"
    source.write_text(text)
    return source


def test_what_is_unusable_is_named_and_the_rest_goes_on(tmp_path: Path, plan: Plan) -> None:
    source = spoiled(tmp_path / "photos")
    done = import_data(plan(source, max_rejected=0.6))
    found = remarks(tmp_path / "made")
    assert sum(done.splits.values()) == 20
    assert done.items == 20 + len(found)
    reasons = {
        "empty.jpg": "is empty (0 bytes)",
        "words.jpg": "is no image of a known format",
        "cut.jpg": "cannot be decoded",
        "tiny.png": "is tiny (20 x 90 pixels",
        "plain.png": "shows a single colour",
        "twin.png": "is the same image as 5.jpg",
        "bomb.png": "is too large (",
        "floats.tif": "holds floating-point pixels",
        "link.jpg": "is a link that leads out",
        "pipe.jpg": "is not a regular file",
        "gone.jpg": "there is no such file",
        "../secret.jpg": "its path leaves the images' folder",
        str(tmp_path / "secret.jpg"): "its path leaves the images' folder",
        "..\\secret.jpg": "its path leaves the images' folder",
        "a\\x00b.jpg": "has no usable file name",
        "0.jpg": "repeats the item 0.jpg",
        "1.jpg": "has no caption",
        "list.jsonl:38": "names no file",
        "list.jsonl:39": "names no file",
        "2b.jpg": "has no caption",
        "empty-words.jpg": "its caption has no words",
        "endless.jpg": "its caption is too long (60 words",
        "echo.jpg": "its caption is that of an earlier item",
        "list.jsonl:44": "names no file",
    }
    assert set(found) == set(reasons)
    for name, reason in reasons.items():
        assert found[name].startswith(reason), name


def test_too_many_rejected_items_stop_the_import_and_leave_nothing(tmp_path: Path, plan: Plan) -> None:
    with pytest.raises(DataError, match=r"24 of 44 items rejected \(first: empty.jpg: is empty"):
        import_data(plan(spoiled(tmp_path / "photos"), max_rejected=0.5))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "secret.jpg"]
