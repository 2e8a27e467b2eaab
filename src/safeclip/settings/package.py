"""The section `package` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from safeclip.settings.section import Section


class Package(Section):
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")] = "safeclip-embedder"
