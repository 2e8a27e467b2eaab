"""The rwlock that a killed DVC leaves behind, mended before DVC is asked again, so that no one has to.

DVC notes in `.dvc/tmp/rwlock` which process reads or writes which path. It rewrites the file in place: cut
off in the middle, it makes every later command fail. And an entry counts while any process has its id, even
if that is another program by now.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dvc.repo import Repo

_CLOCK_SECONDS = 2.0  # by which a file's time and a process's may disagree


def mend_rwlock(repo: Repo) -> None:
    """Drop entries of processes that are gone, start anew if the file cannot be read; a line on stderr."""
    from dvc.lock import make_lock
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK

    folder = Path(str(repo.tmp_dir))
    path = folder / RWLOCK_FILE
    if not path.is_file():
        return
    hardlink = repo.config["core"].get("hardlink_lock", False)
    guard = make_lock(str(folder / RWLOCK_LOCK), tmp_dir=str(folder), hardlink_lock=hardlink, wait=True)
    with guard:
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            kept = _of_the_living(held, since=path.stat().st_mtime)
        except (ValueError, AttributeError, TypeError, KeyError):
            held, kept = None, {}
        if kept != held:
            print(".dvc/tmp/rwlock: left by a process that was killed; mended", file=sys.stderr)
            partial = path.with_name("rwlock.partial")
            partial.write_text(json.dumps(kept), encoding="utf-8")
            os.replace(partial, path)


def is_running(pid: int, command: str, since: float) -> bool:
    """Whether `pid` still is the process that DVC noted as `command` (sys.argv) no later than `since`.

    A program that began later, or was called with another last argument, only has the id.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or process.create_time() > since + _CLOCK_SECONDS:
            return False
        *called, last = command.split(" ")
        return not called or process.cmdline()[-1:] == [last]
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _of_the_living(held: dict[str, Any], *, since: float) -> dict[str, Any]:
    """{"write": {path: info}, "read": {path: [info]}} without entries whose process is gone."""

    def alive(info: dict[str, Any]) -> bool:
        return is_running(int(info["pid"]), str(info["cmd"]), since)

    kept: dict[str, Any] = {mode: dict(held[mode]) for mode in ("write", "read") if mode in held}
    if "write" in kept:
        kept["write"] = {path: info for path, info in kept["write"].items() if alive(info)}
    if "read" in kept:
        living = {path: [info for info in infos if alive(info)] for path, infos in kept["read"].items()}
        kept["read"] = {path: infos for path, infos in living.items() if infos}
    return kept
