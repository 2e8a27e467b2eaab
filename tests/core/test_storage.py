"""A full or read-only disk is one line; other errors keep their traceback."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from safeclip.core.files import storage_fault


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "results/a: no space left on device; free some space and run again"),
        (errno.EROFS, "results/a: read-only file system; make it writable and run again"),
        (errno.EACCES, "results/a: permission denied; give this user access and run again"),
    ],
)
def test_the_line_names_file_fault_and_remedy(number: int, says: str) -> None:
    line = storage_fault(OSError(number, os.strerror(number), "results/a"))
    assert line is not None
    assert line.startswith(says)
    assert "\n" not in line


def test_a_library_that_hides_the_number_is_understood(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(Exception, match=r"os error \d+") as error:
            save_file({"a": torch.zeros(100_000)}, tmp_path / "a.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "file too large; raise the limit" in str(storage_fault(error.value))


def test_a_cause_behind_another_error_is_found() -> None:
    error = RuntimeError("cannot write")
    error.__cause__ = OSError(errno.ENOSPC, "full")
    assert "no space left" in str(storage_fault(error))


@pytest.mark.parametrize("error", [ValueError("x"), FileNotFoundError(errno.ENOENT, "gone", "a"), OSError()])
def test_other_errors_are_not_the_disk_s(error: Exception) -> None:
    assert storage_fault(error) is None
