"""What the attacks on pictures share: one picture at a time, blindly, once."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from safeclip.encoders.load import decode_image
from safeclip.redteam.queries import Access, Query, Victim, colour_scale, margin, perturb

Alteration = Callable[[Image.Image, Query], Image.Image]


class AlteringAttack:
    """Applies an alteration to each query's picture; the result is stored without loss."""

    access: Access = "blind"
    budget = 1

    def __init__(self, name: str, alter: Alteration) -> None:
        self.name, self._alter = name, alter

    def pictures(self, queries: Sequence[Query], victim: Victim) -> list[list[bytes]]:
        """One altered picture a query. `victim` is not looked at."""
        return [[png(self._alter(decode_image(query.image, query.row), query))] for query in queries]


def png(picture: Image.Image) -> bytes:
    """The picture as PNG bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


# A Gaussian blur, as wide relative to the picture whatever its size.


def blur(picture: Image.Image, radius: float) -> Image.Image:
    """`radius` is in pixels of a picture 64 pixels wide."""
    return picture.filter(ImageFilter.GaussianBlur(radius * max(picture.size) / 64))


# The middle of the picture, enlarged to its size.


def crop(picture: Image.Image, keep: float) -> Image.Image:
    """Keep the middle `keep` of each side."""
    width, height = picture.size
    left, top = (1 - keep) / 2 * width, (1 - keep) / 2 * height
    box = (left, top, width - left, height - top)
    return picture.resize(picture.size, Image.Resampling.BICUBIC, box=box)


# Strong lossy compression.


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    """The picture after JPEG at `quality` (1 to 95)."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as squeezed:
        return squeezed.convert("RGB")


# Words printed on the picture: a typographic attack (Goh et al., Multimodal Neurons, distill.pub 2021).


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


# Pictures changed by a few levels of brightness a pixel, up the image tower's gradient.
#
# Projected gradient descent (Madry et al., arXiv 1706.06083) in the maximum norm, on the margin in the
# gallery asked. The result is whole levels, as any stored picture is.


class Pgd:
    """`steps` steps within `levels` of 255 of the picture as the encoder sees it."""

    name = "pgd"
    access: Access = "white box"

    def __init__(self, levels: int, steps: int, batch_size: int) -> None:
        self.budget, self._levels, self._batch_size = steps, levels, batch_size

    def pictures(self, queries: Sequence[Query], victim: Victim) -> list[list[bytes]]:
        """One picture a query, at the encoder's resolution."""
        found: list[list[bytes]] = []
        for start in range(0, len(queries), self._batch_size):
            images = [query.image for query in queries[start : start + self._batch_size]]
            found += [[stored(colours)] for colours in self._tune(images, victim)]
        return found

    def _tune(self, images: list[bytes], victim: Victim) -> Tensor:
        """[B, 3, H, W] in [0, 1]."""
        mean, deviation = colour_scale(victim.encoder)
        gallery, model = victim.reported.texts, victim.encoder.model
        original = victim.encoder.preprocess(images) * deviation + mean
        bound, now = self._levels / 255, original.clone()
        for _ in range(self.budget):
            now.requires_grad_(True)
            reached = margin(model.encode_image((now - mean) / deviation, normalize=True), gallery).sum()
            (gradient,) = torch.autograd.grad(reached, now)
            now = perturb(original, gradient, now.detach(), 2.5 * bound / self.budget, bound)
        return now


def stored(colours: Tensor) -> bytes:
    """[3, H, W] in [0, 1] -> PNG bytes."""
    levels = (colours * 255).round().clamp(0, 255).to(torch.uint8)
    return png(Image.fromarray(levels.permute(1, 2, 0).numpy()))
