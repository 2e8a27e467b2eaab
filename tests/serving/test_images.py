"""What a client sends as an image is decoded safely or refused by name."""

import base64
import io

import pytest
from PIL import Image

from safeclip.errors import DataError
from safeclip.serving import images as module
from safeclip.serving.images import decode_image


def encoded(format_: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "orange").save(buffer, format_)
    return buffer.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
def test_known_formats_come_back_as_sent(format_: str) -> None:
    data = encoded(format_)
    assert decode_image(b64(data), 0) == data


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("https://example.org/cat.png", "not base64"),
        ("%%%", "not base64"),
        (b64(b"GIF89a not an image"), "none of PNG, JPEG, WEBP"),
        (b64(encoded("BMP")), "none of PNG, JPEG, WEBP"),
        (b64(encoded("GIF")), "none of PNG, JPEG, WEBP"),
        (b64(encoded(size=(64, 64))[:-30]), "cannot be decoded"),
        (b64(b""), "none of PNG, JPEG, WEBP"),
    ],
)
def test_bad_images_are_refused_naming_the_item(text: str, says: str) -> None:
    with pytest.raises(DataError, match=r"images\[3\]") as refused:
        decode_image(text, 3)
    assert says in str(refused.value)


def test_an_image_that_expands_is_refused_before_its_pixels_are_decoded(monkeypatch) -> None:
    bomb = encoded(size=(5000, 5000))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises(DataError, match="5000 x 5000 pixels"):
        module.check_image(bomb, 0)


def test_the_service_takes_the_formats_that_the_encoder_takes() -> None:
    from safeclip.encoders.load import IMAGE_FORMATS

    assert module.FORMATS == IMAGE_FORMATS
