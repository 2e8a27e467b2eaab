"""Many images: the same folder for any number of workers, and a killed import goes on where it was."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from safeclip.core.errors import DataError
from safeclip.data import images as decoding
from safeclip.data.images import AcceptedImage, accept
from safeclip.data.importing import ImportPlan, import_data
from tests.data.photos import encoded, photo, remarks, write_list
from tests.data.test_dataset import files

Plan = Callable[..., ImportPlan]
IMPORT = """
import sys
from pathlib import Path
if __name__ == "__main__":
    from safeclip.data import images as decoding
    from safeclip.data.importing import ImportPlan, import_data
    from safeclip.data.rows import Limits
    decoding.PORTION_ITEMS = 8
    source, out, base, work = map(Path, sys.argv[1:])
    limits = Limits(max_words=40, min_side=32, max_side=128)
    import_data(ImportPlan(source, out, base, work, limits, 3.0, check_fit=False, workers=2))
"""


@pytest.fixture(autouse=True)
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "PORTION_ITEMS", 8)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that this process decodes from now on."""
    names: list[str] = []

    def noting(data: bytes, name: str, **sides: int) -> AcceptedImage:
        names.append(name)
        return accept(data, name, **sides)

    monkeypatch.setattr(decoding, "accept", noting)
    return names


def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path, plan: Plan) -> None:
    source = write_list(tmp_path / "photos", 30)
    (source.parent / "3.jpg").write_bytes(encoded(photo(3))[:900])
    (source.parent / "9.jpg").write_bytes((source.parent / "8.jpg").read_bytes())
    (source.parent / "20.jpg").unlink()
    import_data(plan(source))
    import_data(plan(source, out=tmp_path / "shared", workers=3))
    assert files(tmp_path / "shared") == files(tmp_path / "made")
    assert list(remarks(tmp_path / "made")) == ["3.jpg", "9.jpg", "20.jpg"]


def test_a_killed_import_goes_on_and_nothing_lives_on(tmp_path: Path, plan: Plan, decoded: list[str]) -> None:
    source = write_list(tmp_path / "photos", 160)
    request = plan(source)
    (tmp_path / "one.py").write_text(IMPORT)
    command = [sys.executable, str(tmp_path / "one.py"), *map(str, (source, request.out, request.base))]
    process = subprocess.Popen([*command, str(request.work)], stderr=(tmp_path / "err").open("w"))
    deadline = time.monotonic() + 60
    while not list(request.scratch.glob("*.whole")) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert list(request.scratch.glob("*.whole"))
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert not request.out.exists()

    import_data(request)
    assert 0 < len(decoded) < 160
    import_data(plan(source, out=tmp_path / "undisturbed"))
    assert files(request.out) == files(tmp_path / "undisturbed")
    assert not request.scratch.exists()


def test_two_imports_into_one_folder_are_kept_apart(tmp_path: Path, plan: Plan) -> None:
    request = plan(write_list(tmp_path / "photos", 20))
    request.work.mkdir(parents=True)
    with request.scratch.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=r"made: another import is writing it; wait until it is done"):
            import_data(request)
    assert not request.out.exists()
    assert sum(import_data(request).splits.values()) == 20


def test_what_was_edited_since_is_decoded_anew(tmp_path: Path, plan: Plan, decoded: list[str]) -> None:
    source = write_list(tmp_path / "photos", 40)
    with pytest.raises(DataError, match="split 'val' would be empty"):
        import_data(plan(source, val=0.0))
    decoded.clear()
    (source.parent / "3.jpg").write_bytes(encoded(photo(903)))
    import_data(plan(source))
    assert decoded == [f"{number}.jpg" for number in range(8)]
    import_data(plan(source, out=tmp_path / "anew"))
    assert files(tmp_path / "made") == files(tmp_path / "anew")


def test_a_damaged_piece_is_made_anew_with_a_line(
    tmp_path: Path, plan: Plan, decoded: list[str], capsys: pytest.CaptureFixture
) -> None:
    source = write_list(tmp_path / "photos", 20)
    request = plan(source, val=0.0)
    with pytest.raises(DataError):
        import_data(request)
    piece = sorted(request.scratch.glob("*.parquet"))[0]
    piece.write_bytes(piece.read_bytes()[:-40])
    decoded.clear()
    assert sum(import_data(plan(source)).splits.values()) == 20
    assert 0 < len(decoded) <= 8
    assert "is damaged; it is made anew" in capsys.readouterr().out
