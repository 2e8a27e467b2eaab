"""What `safeclip registry verify` asks of a Bento: that its model still gives the reference vectors."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from safeclip.core.errors import RegistryError, SafeclipError
from safeclip.core.files import unpack
from safeclip.packaging.bento import write_tar
from safeclip.release.releases import check_served


def test_the_packaged_model_passes_and_a_changed_one_does_not(packaged: Path, tmp_path: Path) -> None:
    bento = packaged / "results/package/safeclip-embedder.tar"
    (tmp_path / "whole").mkdir()
    check_served(bento, tmp_path / "whole")
    with tarfile.open(bento) as archive:
        unpack(archive, tmp_path / "edited")
    (reference,) = (tmp_path / "edited").glob("models/safeclip/*/reference.json")
    vectors = json.loads(reference.read_text())
    vectors["embeddings"][0][0] += 0.01
    reference.write_text(json.dumps(vectors))
    write_tar(tmp_path / "edited", tmp_path / "edited.tar")
    with pytest.raises(SafeclipError, match="reference vectors differ"):
        check_served(tmp_path / "edited.tar", tmp_path / "scratch")


def test_an_archive_without_a_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_tar(tmp_path / "empty", tmp_path / "empty.tar")
    with pytest.raises(RegistryError, match="the Bento holds 0 models instead of one"):
        check_served(tmp_path / "empty.tar", tmp_path / "scratch")
