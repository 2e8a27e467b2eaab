"""The one blur and the one thumbnail."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from safeclip.core.images import BLUR_CELLS, blur, encode, read_rgb, shrink


def stripes(width: int, height: int) -> Image.Image:
    """One-pixel stripes: their detail is lost when colours are averaged."""
    levels = np.zeros((height, width, 3), dtype=np.uint8)
    levels[:, ::2] = 255
    return Image.fromarray(levels)


@pytest.mark.parametrize("cells", [5, BLUR_CELLS])
def test_a_blurred_image_has_the_asked_size_and_nothing_of_the_detail(cells):
    result = blur(stripes(160, 80), (40, 20), cells)
    assert result.size == (40, 20)
    assert np.asarray(result).std() < 2


def test_a_thumbnail_fits_its_square_keeps_its_shape_and_never_grows():
    assert shrink(encode(stripes(160, 80), "PNG"), 40).size == (40, 20)
    assert shrink(encode(stripes(16, 8), "PNG"), 40).size == (16, 8)


def test_any_mode_is_read_as_rgb_and_encoded_in_the_asked_format():
    gray = encode(stripes(16, 8).convert("L"), "WEBP", quality=60)
    assert read_rgb(gray).mode == "RGB"
    assert Image.open(io.BytesIO(gray)).format == "WEBP"


def test_what_is_no_image_is_refused():
    with pytest.raises(UnidentifiedImageError):
        read_rgb(b"no image")
