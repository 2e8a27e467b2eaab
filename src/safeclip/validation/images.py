"""An expectation of our own: a column of bytes holds pictures that decode and are large enough."""

from __future__ import annotations

import io
from typing import Any, ClassVar

import pandas as pd
from great_expectations.execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import ColumnMapExpectation
from great_expectations.expectations.metrics import ColumnMapMetricProvider, column_condition_partial
from PIL import Image, UnidentifiedImageError

FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 50_000_000  # a larger one is refused before it is decoded


def image_fault(image: bytes, min_side: int) -> str | None:
    """Why these bytes are no usable PNG or JPEG with sides of at least `min_side` pixels, or None."""
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                return f"{width} x {height} pixels is too large"
            opened.load()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return "does not decode as PNG or JPEG"
    return None if min(width, height) >= min_side else f"{width} x {height} pixels is too small"


class ColumnValuesAreImages(ColumnMapMetricProvider):
    """The metric behind `ExpectColumnValuesToBeImages`."""

    condition_metric_name = "column_values.safeclip_image"
    condition_value_keys = ("min_side",)

    @column_condition_partial(engine=PandasExecutionEngine)
    def _pandas(cls, column: pd.Series, min_side: int, **_: Any) -> pd.Series:
        return column.map(lambda image: image_fault(image, min_side) is None).astype(bool)


class ExpectColumnValuesToBeImages(ColumnMapExpectation):
    """Expect the column's bytes to be PNG or JPEG pictures with sides of at least `min_side` pixels."""

    min_side: int = 1
    map_metric: ClassVar[str] = "column_values.safeclip_image"
    success_keys: ClassVar[tuple[str, ...]] = ("min_side", "mostly")
