"""production.json: what is in production. Committed; promotion writes it, evaluation and gate read it.

{"assigned": false, "version": null, "digests": {}}                    until the first promotion
{"assigned": true, "version": "v1.2.0", "adapter": "path/from/the/root.safetensors",
 "digests": {"adapter": "sha256 of that file", ...}, "gate": {...}}    afterwards; `gate`: the rules it passed
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from safeclip.core.artifacts import PRODUCTION
from safeclip.core.errors import DataError
from safeclip.core.files import sha256


class Production(BaseModel):
    """The version in production, if one was ever assigned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    assigned: bool
    version: str | None = None
    adapter: str | None = None
    digests: dict[str, str] = Field(default_factory=dict)
    gate: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _all_or_nothing(self) -> Production:
        named = self.version and self.adapter and "adapter" in self.digests
        if self.assigned and not named:
            raise ValueError("assigned, but `version`, `adapter` or `digests.adapter` is missing")
        if not self.assigned and (self.version or self.adapter or self.digests):
            raise ValueError("not assigned, yet it names a version, an adapter or digests")
        return self


def read_production(path: Path = PRODUCTION) -> Production:
    """A missing or broken file is a `DataError`: it must never read as 'nothing was ever in production'."""
    try:
        return Production.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; restore it from git (`git checkout {path}`)") from None
    except ValidationError as error:
        fault = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise DataError(f"{path}: {fault}; restore it from git (`git checkout {path}`)") from None


def production_adapter(production: Production, root: Path = Path()) -> Path:
    """The adapter's file, checked against its digest; `DataError` if it is missing or another one."""
    path = root / str(production.adapter)
    if not path.is_file():
        raise DataError(f"{path}: production's adapter is not here; pull {production.version} first")
    if sha256(path) != production.digests["adapter"]:
        raise DataError(
            f"{path}: not the adapter of {production.version} (its digest differs); pull it again"
        )
    return path
