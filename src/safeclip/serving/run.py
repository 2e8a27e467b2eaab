"""Serve a packaged Bento file on this machine, from a BentoML home of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safeclip.core.errors import ModelError, PipelineError
from safeclip.core.files import unpack


def serve(bento: Path, host: str = "127.0.0.1", port: int = 3000, gallery: Path | None = None) -> int:
    """Import `bento` (.tar) into an empty home and run `bentoml serve`; returns its exit status.

    `gallery` is an index made by `safeclip index build`.
    """
    _check_exists(bento)
    with tempfile.TemporaryDirectory(prefix="safeclip-serve-") as home:
        env = {**os.environ, "BENTOML_HOME": home, "BENTOML_DO_NOT_TRACK": "True"}
        if gallery:
            env["SAFECLIP_GALLERY"] = str(gallery.resolve())
        tag = _import(bento, env)
        command = [sys.executable, "-m", "bentoml", "serve", tag, "--host", host, "--port", str(port)]
        process = subprocess.Popen(command, env=env, cwd=home)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the server ends with us
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            return process.wait()


@contextmanager
def unpacked_model(source: Path) -> Iterator[Path]:
    """The model folder inside a Bento file, for as long as the block lasts; a folder is taken as it is."""
    if source.is_dir():
        yield source
        return
    _check_exists(source)
    with tempfile.TemporaryDirectory(prefix="safeclip-model-") as scratch:
        try:
            with tarfile.open(source) as archive:
                unpack(archive, Path(scratch), within="models")
        except (tarfile.TarError, OSError) as error:
            raise ModelError(f"{source}: not a readable Bento ({error}); package it again") from None
        found = sorted(Path(scratch).glob("models/*/*/info.json"))
        if len(found) != 1:
            raise ModelError(f"{source}: holds {len(found)} models, not one; package it again")
        yield found[0].parent


def _check_exists(bento: Path) -> None:
    if not bento.is_file():
        raise ModelError(f"{bento}: no such file; `safeclip run` makes it when the gate passes")


def _import(bento: Path, env: dict[str, str]) -> str:
    code = "import bentoml, sys; print(bentoml.import_bento(sys.argv[1]).tag)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(bento.resolve())], env=env, capture_output=True, text=True
    )
    if done.returncode:
        reason = (done.stderr.strip() or "unknown reason").splitlines()[-1]
        raise PipelineError(f"{bento}: not a Bento ({reason}); package again with `safeclip stage package`")
    return done.stdout.strip().splitlines()[-1]
