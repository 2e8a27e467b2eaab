"""Bearer tokens: several at a time, from the environment or a file, exchanged without a restart.

SAFECLIP_TOKENS holds tokens separated by commas or spaces; SAFECLIP_TOKENS_FILE names a file with one a line
(`#` begins a comment), read again when it changes. With neither, every route is open.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from pathlib import Path

from safeclip.errors import SettingsError

TOKENS, TOKENS_FILE = "SAFECLIP_TOKENS", "SAFECLIP_TOKENS_FILE"
MIN_CHARS = 16


class Tokens:
    """The tokens that are accepted now. A file that is named must be readable and hold at least one."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._fixed = _digests(re.split(r"[,\s]+", environment.get(TOKENS, "")), TOKENS)
        self._file = Path(environment[TOKENS_FILE]) if environment.get(TOKENS_FILE) else None
        self._stamp: tuple[int, int, int] | None = None
        self._from_file: tuple[bytes, ...] = ()
        if TOKENS in environment and not self._fixed:
            raise SettingsError(f"{TOKENS}: set but empty; give a token, or unset it to open the service")
        if self._file:
            self._reread()

    @property
    def required(self) -> bool:
        """Whether requests need a token."""
        return bool(self._fixed or self._file)

    def accept(self, authorization: str) -> bool:
        """Whether an Authorization header carries an accepted token: `Bearer TOKEN`, or `Basic` with it as
        the password (what a browser can send). Every token is compared, each in constant time."""
        sent = hashlib.sha256(_token(authorization)).digest()
        found = False
        for known in (*self._fixed, *self._current()):
            found |= hmac.compare_digest(sent, known)
        return found

    def _current(self) -> tuple[bytes, ...]:
        """The file's tokens. While it is missing or faulty, as in the middle of an exchange, those before."""
        if self._file:
            try:
                if _stamp(self._file) != self._stamp:
                    self._reread()
            except (OSError, SettingsError):
                pass
        return self._from_file

    def _reread(self) -> None:
        assert self._file is not None
        try:
            stamp, text = _stamp(self._file), self._file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise SettingsError(f"{self._file}: cannot be read; {TOKENS_FILE} names it") from None
        tokens = _digests([line.partition("#")[0].strip() for line in text.splitlines()], str(self._file))
        if not tokens:
            raise SettingsError(f"{self._file}: holds no token; write one a line")
        self._stamp, self._from_file = stamp, tokens


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _digests(tokens: list[str], source: str) -> tuple[bytes, ...]:
    found = [token for token in tokens if token]
    if any(len(token) < MIN_CHARS for token in found):
        raise SettingsError(f"{source}: a token is shorter than {MIN_CHARS} characters; make it longer")
    return tuple(hashlib.sha256(token.encode()).digest() for token in found)


def _token(authorization: str) -> bytes:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""
