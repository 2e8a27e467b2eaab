"""Where Bentos and adapters lie by digest: a folder, S3 or any other fsspec URL.

    bentos/SHA256.tar        adapters/SHA256.safetensors        written once, never changed
    candidates/ID.json       what a candidate is made of         written once
    reviews/ID.json          what was asked and answered
    index.json               version -> digests, stage -> version: what the signed tags say, without git

A file appears whole or not at all (fsspec's transactions: a rename in a folder, the end of an upload in S3).
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
from safeclip.core.files import sha256


class Store:
    """A folder of the registry, by its URL (`registry`, `s3://bucket/safeclip`)."""

    def __init__(self, url: str, root: Path) -> None:
        """`root`: what a relative folder is relative to."""
        self.url = url if "://" in url else str((root / url).resolve())
        try:
            self._files, self._path = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise RegistryError(f"registry.url = {url!r}: {error}") from None

    def put(self, key: str, file: Path) -> None:
        """Upload `file` unless `key` is there already, whole: keys name digests, so it is the same file."""
        if self._size(key) == file.stat().st_size:
            return
        with self._writing(key) as target, file.open("rb") as source:
            shutil.copyfileobj(source, target)

    def get(self, key: str, target: Path, digest: str) -> None:
        """Download `key` to `target`; a `RegistryError` if it is missing or is not what `digest` names."""
        partial = target.with_name(f".{target.name}.partial")
        try:
            with self._told(key, "read"):
                self._files.get_file(self._at(key), str(partial))
            if sha256(partial) != digest:
                raise RegistryError(f"{self.url}/{key}: was changed, its digest is not the released one")
            partial.replace(target)
        except FileNotFoundError:
            raise RegistryError(f"{self.url}/{key}: there is no such file; was it removed?") from None
        finally:
            partial.unlink(missing_ok=True)

    def write_json(self, key: str, value: Any) -> None:
        with self._writing(key) as target:
            target.write((json.dumps(value, indent=2, sort_keys=True) + "\n").encode())

    def read_json(self, key: str) -> Any:
        """The value at `key`, or None if there is none."""
        try:
            with self._told(key, "read"):
                return json.loads(self._files.cat_file(self._at(key)))
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        """File names in a folder, sorted; empty if there is no such folder."""
        try:
            with self._told(folder, "listed"):
                self._files.invalidate_cache()
                paths = self._files.ls(self._at(folder), detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rpartition("/")[2] for path in paths)

    @contextmanager
    def _writing(self, key: str) -> Iterator[Any]:
        """One file in a transaction of its own: what was written before an error never shows."""
        path = self._at(key)
        with self._told(key, "written"):
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            with self._files.transaction, self._files.open(path, "wb") as target:
                yield target

    @contextmanager
    def _told(self, key: str, done: str) -> Iterator[None]:
        """One line for any fault but a missing file; each backend raises errors of its own kinds."""
        try:
            yield
        except (FileNotFoundError, RegistryError):
            raise
        except Exception as error:
            line = " ".join(str(error).split())[:200] or type(error).__name__
            raise RegistryError(f"{self.url}/{key}: cannot be {done} ({line})") from None

    def _size(self, key: str) -> int | None:
        try:
            with self._told(key, "reached"):
                self._files.invalidate_cache()
                return int(self._files.size(self._at(key)))
        except FileNotFoundError:
            return None

    def _at(self, key: str) -> str:
        return f"{self._path.rstrip('/')}/{key}"
