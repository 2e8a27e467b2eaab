"""Store Bentos, adapters and records of reviews in a folder, in S3 or at any other fsspec URL.

    bentos/SHA256.tar        adapters/SHA256.safetensors        written once, never changed
    candidates/ID.json       what a candidate is made of        written once
    reviews/ID.json          what was asked and answered
    index.json               version -> digests, stage -> version: what the signed tags say, without git

A file appears whole or not at all (fsspec's transactions: a rename in a folder, the end of an upload in S3).
Nothing here is trusted for being here: readers check digests against those in a signed tag.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from safeclip.core.errors import RegistryError
from safeclip.core.files import replacing, sha256


class Store:
    """The files of a registry, below its URL (`registry`, `s3://bucket/safeclip`)."""

    def __init__(self, url: str, root: Path) -> None:
        """Open the store; a relative folder is relative to `root`."""
        self.url = url if "://" in url else str((root / url).resolve())
        try:
            self._files, self._path = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise RegistryError(f"registry.url = {url!r}: {error}") from None

    def put(self, key: str, file: Path) -> None:
        """Upload `file`, unless `key` is there already and as large."""
        # Keys name digests: what has the key and the size is the same file.
        if self._size(key) == file.stat().st_size:
            return
        with self._writing(key) as target, file.open("rb") as source:
            shutil.copyfileobj(source, target)

    def get(self, key: str, target: Path, digest: str) -> None:
        """Download `key` to `target`, atomically; `RegistryError` if it is missing or its SHA-256 differs."""
        try:
            with replacing(target) as partial:
                with self._as_registry_error(key, "read"):
                    self._files.get_file(self._at(key), str(partial))
                if sha256(partial) != digest:
                    raise RegistryError(f"{self.url}/{key}: was changed, its digest is not the released one")
        except FileNotFoundError:
            raise RegistryError(f"{self.url}/{key}: there is no such file; was it removed?") from None

    def write_json(self, key: str, value: Any) -> None:
        """Write sorted, indented JSON to `key`, over what is there."""
        with self._writing(key) as target:
            target.write((json.dumps(value, indent=2, sort_keys=True) + "\n").encode())

    def read_json(self, key: str) -> Any:
        """Return the value at `key`, None if there is no such file."""
        try:
            with self._as_registry_error(key, "read"):
                return json.loads(self._files.cat_file(self._at(key)))
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        """List the file names in a folder, sorted; empty if there is no such folder."""
        try:
            with self._as_registry_error(folder, "listed"):
                self._files.invalidate_cache()
                paths = self._files.ls(self._at(folder), detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rpartition("/")[2] for path in paths)

    @contextmanager
    def _writing(self, key: str) -> Iterator[Any]:
        """Open one file in a transaction of its own: what was written before an error never shows."""
        path = self._at(key)
        with self._as_registry_error(key, "written"):
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            with self._files.transaction, self._files.open(path, "wb") as target:
                yield target

    @contextmanager
    def _as_registry_error(self, key: str, done: str) -> Iterator[None]:
        """Turn any fault but a missing file into one line; done: what failed, as a participle."""
        try:
            yield
        except (FileNotFoundError, RegistryError):
            raise
        except Exception as error:  # each backend raises errors of its own kinds
            line = " ".join(str(error).split())[:200] or type(error).__name__
            raise RegistryError(f"{self.url}/{key}: cannot be {done} ({line})") from None

    def _size(self, key: str) -> int | None:
        try:
            with self._as_registry_error(key, "reached"):
                self._files.invalidate_cache()
                return int(self._files.size(self._at(key)))
        except FileNotFoundError:
            return None

    def _at(self, key: str) -> str:
        return f"{self._path.rstrip('/')}/{key}"
