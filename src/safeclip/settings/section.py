"""What every section of params.yaml is built from, and how a fault in the file is told in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from safeclip.errors import SettingsError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0.0)]
Weight = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """A frozen section; unknown keys are errors, numbers are not read from strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


Loaded = TypeVar("Loaded", bound=Section)


def load(kind: type[Loaded], path: Path) -> Loaded:
    """Read and check a settings file as `kind`; a `SettingsError` of one line names the first fault."""
    try:
        return kind.model_validate(_read(path))
    except ValidationError as error:
        raise SettingsError(f"{path}: {_first_fault(error)}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file; run from the project's root") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); restore the file") from None
    except (YAMLError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise SettingsError(f"{path}: not valid YAML ({first}); mend the file") from None
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: must hold sections such as `finetune:`; found {type(raw).__name__}")
    return raw


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key `{key}`; remove it or check its spelling"
    message = fault["msg"].removeprefix("Value error, ")
    return f"`{key}` = {fault['input']!r}: {message}"
