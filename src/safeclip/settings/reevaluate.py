"""The section `reevaluate` of params.yaml: what the weekly look at production does. No stage reads it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from safeclip.settings.section import Positive, Section, Share


class Reevaluate(Section):
    """Production against scenes and attacks of a fresh seed."""

    scenes: Annotated[Positive, Field(ge=20)] = 600
    margin: Share = 0.02  # by which a figure must surely be worse than at release to be told
