"""Whatever kind of image comes in, an upright RGB image without metadata goes out."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from safeclip.data.images import AcceptedImage, accept
from safeclip.data.items import ItemFault, clean, fit_caption
from safeclip.data.rows import make_id
from tests.data.photos import claiming, encoded, photo


def taken(data: bytes, name: str = "a.png", max_side: int = 512) -> tuple[AcceptedImage, np.ndarray]:
    image = accept(data, name, min_side=32, max_side=max_side)
    decoded = Image.open(io.BytesIO(image.data))
    assert decoded.mode == "RGB"
    return image, np.asarray(decoded).astype(float)


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(float)


def test_exif_rotation_is_applied_and_metadata_stays_behind() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker"  # turn by 90 degrees; the camera's maker
    image, pixels = taken(encoded(photo(1), quality=95, exif=exif), "a.jpg")
    assert np.abs(pixels - levels(photo(1).rotate(-90, expand=True))).mean() < 7
    assert "turned upright" in image.notes
    assert not Image.open(io.BytesIO(image.data)).getexif()
    assert b"a maker" not in image.data


@pytest.mark.parametrize(
    ("data", "close"),
    [
        (encoded(photo(2).convert("CMYK"), quality=95), 6),
        (encoded(photo(2).quantize(64), "PNG"), 12),
        (encoded(photo(2).quantize(64), "GIF"), 12),
        (encoded(photo(2), "WEBP", quality=95), 6),
        (encoded(photo(2), "TIFF", compression="tiff_lzw"), 0.1),
        (encoded(photo(2), "BMP"), 0.1),
        (encoded(photo(2), "JPEG", quality=95, progressive=True), 6),
    ],
)
def test_other_kinds_show_the_same(data: bytes, close: float) -> None:
    assert np.abs(taken(data)[1] - levels(photo(2))).mean() < close


def test_16_bits_keep_their_range() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    _, pixels = taken(encoded(Image.fromarray(ramp), "PNG"))
    assert np.abs(pixels[..., 0] - ramp / 257).max() <= 1


def test_transparency_becomes_white() -> None:
    layer = photo(3).convert("RGBA")
    layer.putalpha(Image.fromarray(np.repeat([[0] * 48 + [255] * 48], 72, 0).astype(np.uint8)))
    _, pixels = taken(encoded(layer, "PNG"))
    assert (pixels[:, :48] == 255).all()
    assert np.abs(pixels[:, 48:] - levels(photo(3))[:, 48:]).max() == 0


def test_large_images_are_scaled_and_a_wrong_name_is_noted() -> None:
    image, pixels = taken(encoded(photo(4, (400, 200)), "PNG"), "photo.jpg", max_side=100)
    assert pixels.shape == (50, 100, 3)
    assert image.notes == ("named .jpg and is PNG", "scaled from 400 x 200")


def test_many_pixels_are_refused_before_they_are_decoded() -> None:
    claim = claiming(encoded(photo(5), "PNG"), 60_000, 60_000)
    with pytest.raises(ItemFault, match="is too large"):
        accept(claim, "a.png", min_side=32, max_side=512)


def test_captions_are_composed_single_spaced_and_hold_no_hidden_signs() -> None:
    assert clean("\ufeff a\u0301 cafe\u0301\r\n\u2028in\tthe\u202e park\0 ") == "á café in the park"
    text, note = fit_caption("A dog runs. It is brown. " + "It runs on and on " * 10, 8)
    assert text == "A dog runs. It is brown."
    assert note == "caption shortened to its first 6 words (whole sentences)"


def test_ids_are_safe_file_names_and_their_own() -> None:
    keys = ["a/b.jpg", "a/c.jpg", "b/b.jpg", "été/日本.png", "../x.png", "coco-000000000007", "x" * 300]
    ids = [make_id(key) for key in keys]
    assert len(set(ids)) == len(keys)
    assert all(set(row_id) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for row_id in ids)
    assert max(map(len, ids)) <= 51
    assert ids[0].startswith("b-")
    assert ids[5] == keys[5]
