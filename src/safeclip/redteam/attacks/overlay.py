"""Words printed on the picture: a typographic attack (Goh et al., Multimodal Neurons, distill.pub 2021)."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

SHARE = 0.22
"""Of the picture's height: the white strip at its foot."""


def overlay(picture: Image.Image, words: str) -> Image.Image:
    """A white strip across the foot with `words` on it, as many as fit; the rest of the picture stays."""
    printed, height = picture.copy(), round(picture.height * SHARE)
    font = ImageFont.load_default(max(6, round(height * 0.75)))
    strip = Image.new("RGB", (picture.width, height), "white")
    ImageDraw.Draw(strip).text((1, height // 2), words, fill="black", font=font, anchor="lm")
    printed.paste(strip, (0, picture.height - height))
    return printed
