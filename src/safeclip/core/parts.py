"""Parts of a world that params.yaml names by import path: image engines, labellers, prompts, scenes."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from safeclip.core.errors import SettingsError


def load_part(path: str | None) -> Any:
    """Import the class or function at `path`, written as `package.module:Name`; None stays None.

    Raises:
        SettingsError: the path is not of that form, or there is no such module or name.
    """
    if path is None:
        return None
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise SettingsError(f"{path!r} is no import path; write it as `package.module:Name`")
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        raise SettingsError(f"{path}: cannot be imported ({error}); install it or correct the path") from None
    except AttributeError:
        raise SettingsError(f"{path}: {module} has no {name}; correct the path") from None


def make_part(path: str | None, *arguments: Any, **options: Any) -> Any:
    """Call the class or function at `path`; None stays None.

    Raises:
        SettingsError: it cannot be imported, or does not take these arguments.
    """
    if path is None:
        return None
    part = load_part(path)
    try:
        # apart from the call, so that an error inside the part is not taken for wrong options
        inspect.signature(part).bind(*arguments, **options)
    except TypeError as error:
        raise SettingsError(f"{path}: {error}; correct its options") from None
    return part(*arguments, **options)
