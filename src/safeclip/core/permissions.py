"""Folders with generated unsafe data are their owner's alone, whoever made them and with whatever umask.

Only the top of each is changed: nobody else gets past it. A cache that DVC shares with a group
(`cache.shared = group`) stays open to the group.
"""

from __future__ import annotations

import configparser
import stat
from collections.abc import Iterator
from pathlib import Path

PRIVATE = ("results", "work", "logs", ".dvc/tmp")
PUBLIC_REMOTES = ("bundled",)  # travels in git and holds data/ alone


def restrict(root: Path) -> list[Path]:
    """Close every such folder of the project to others; returns those of somebody else that stay open."""
    config = _config(root)
    group = config.get("cache", "shared", fallback="") == "group"
    cache = root / ".dvc" / config.get("cache", "dir", fallback="cache")
    if (root / ".dvc").is_dir():
        cache.mkdir(parents=True, exist_ok=True)  # before DVC makes it with the user's umask
    shared = [cache, *_local_remotes(root, config)]
    still_open = [root / name for name in PRIVATE if not _close(root / name, 0o077)]
    return still_open + [path for path in shared if not _close(path, 0o007 if group else 0o077)]


def _close(path: Path, others: int) -> bool:
    """Take these bits from a folder; False if it is not ours to change."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & others:
            path.chmod(mode & ~others)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _config(root: Path) -> configparser.ConfigParser:
    """DVC's configuration files of the project, the local one last."""
    config = configparser.ConfigParser(interpolation=None, strict=False)
    for name in ("config", "config.local"):
        try:
            config.read_string(_plain((root / ".dvc" / name).read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, configparser.Error):
            continue  # DVC itself tells what is wrong with it
    return config


def _plain(text: str) -> str:
    """Options without indentation, which configparser would read as a continuation."""
    return "\n".join(line.strip() for line in text.splitlines())


def _local_remotes(root: Path, config: configparser.ConfigParser) -> Iterator[Path]:
    for section in config.sections():
        name = section.strip("'").removeprefix("remote ").strip('"')
        url = config.get(section, "url", fallback="")
        if (
            section.strip("'").startswith("remote ")
            and url
            and "://" not in url
            and name not in PUBLIC_REMOTES
        ):
            yield root / ".dvc" / url
