"""What a client sends as an image is taken or refused by name, before its pixels are decoded."""

import base64
import io
import zlib

import pytest
from PIL import Image

from safeclip.core.errors import DataError
from safeclip.serving import images as module
from safeclip.serving.images import check_image, decode_base64


def encoded(format_: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "orange").save(buffer, format_)
    return buffer.getvalue()


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
def test_known_formats_come_back_as_sent(format_: str) -> None:
    data = encoded(format_)
    assert decode_base64(base64.b64encode(data).decode(), "image") == data
    check_image(data, "image")


@pytest.mark.parametrize("text", ["https://example.org/cat.png", "%%%", "data:image/png;base64,AA", "AAAAA"])
def test_what_is_not_base64_is_refused_and_a_url_is_not_fetched(text: str) -> None:
    with pytest.raises(DataError, match=r"images\[3\] is not base64; send the file's bytes, not a URL"):
        decode_base64(text, "images[3]")


@pytest.mark.parametrize(
    "data",
    [b"", b"GIF89a not an image", b"<svg/>", b"%PDF-1.4", encoded("BMP"), encoded("GIF"), encoded("TIFF")],
    ids=["empty", "gif header", "svg", "pdf", "bmp", "gif", "tiff"],
)
def test_other_formats_are_refused_naming_the_item(data: bytes) -> None:
    with pytest.raises(DataError, match=r"images\[3\] is none of PNG, JPEG, WEBP"):
        check_image(data, "images[3]")


def test_an_image_that_expands_is_refused_before_its_pixels_are_decoded(monkeypatch) -> None:
    bomb = encoded(size=(5000, 5000))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises(DataError, match="5000 x 5000 pixels"):
        check_image(bomb, "image")


def test_a_header_that_lies_about_its_size_is_refused() -> None:
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    data = encoded()
    lying = data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]
    with pytest.raises(DataError, match=r"60000 x 60000 pixels|is none of"):
        check_image(lying, "image")


def test_a_strip_that_resizing_would_blow_up_is_refused() -> None:
    with pytest.raises(DataError, match="one side at most 64 times the other"):
        check_image(encoded(size=(1, 5000)), "image")


def test_the_service_takes_the_formats_that_the_encoder_takes() -> None:
    from safeclip.encoders.load import IMAGE_FORMATS

    assert module.FORMATS == IMAGE_FORMATS
