"""The gate's rules as they stood at a commit."""

from __future__ import annotations

import tempfile
from pathlib import Path

from safeclip.errors import RegistryError
from safeclip.registry.git import file_at
from safeclip.settings.gate import Gate
from safeclip.settings.project import load_settings


def gate_at(root: Path, commit: str) -> Gate:
    """The section `gate` of that commit's params.yaml."""
    text = file_at(root, commit, "params.yaml")
    if text is None:
        raise RegistryError(f"{commit[:12]} has no params.yaml; its rules cannot be compared")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        return load_settings(file.name).gate
