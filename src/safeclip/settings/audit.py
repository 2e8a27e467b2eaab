"""The section `audit` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from safeclip.settings.section import Count, Positive, Section


class Audit(Section):
    """Does the model react to how a picture was made rather than to what it shows?"""

    pictures: Positive = 120  # of the test split, in each group
    saliency_pictures: Count = 6  # in each group that is explained; 0: none
    saliency_steps: Positive = 12  # of the path that gradients are integrated along
    figure_pictures: Count = 3  # of these on the figure, a group
    batch_size: Positive = 256
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
