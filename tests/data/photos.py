"""Photo-like images that the picture book did not draw: gradients, noise and shapes, with captions."""

from __future__ import annotations

import io
import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from safeclip.data.importing import REPORT

THINGS = ("dog", "cat", "car", "tree", "house", "boat", "horse", "bicycle", "train", "bus", "apple", "clock")
PLACES = ("near the river", "in the park", "at the market", "on a hill", "beside the road")


def photo(number: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """An image of its own for each number."""
    rng = np.random.default_rng([7, number])
    width, height = size
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    start, right, below = rng.uniform(0, 255, (3, 3))
    pixels = start + (right - start) * across[..., None] * 0.7 + (below - start) * down[..., None] * 0.7
    pixels = pixels + rng.normal(0, 6, pixels.shape)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for shape in range(int(rng.integers(2, 6))):
        x, y = rng.uniform(0, 0.7, 2) * size
        box = (x, y, x + rng.uniform(10, 40), y + rng.uniform(10, 40))
        colour = tuple(int(level) for level in rng.integers(0, 255, 3))
        (pen.ellipse if shape % 2 else pen.rectangle)(box, fill=colour)
    return image


def caption(number: int) -> str:
    """A caption of its own for each number below 1,000."""
    thing, place = THINGS[number % 12], PLACES[number // 12 % 5]
    return f"A {thing} with {number + 2} painted stripes stands {place}."


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def claiming(png: bytes, width: int, height: int) -> bytes:
    """A PNG whose header says another size: what a decompression bomb looks like before it is opened."""
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + png[24:29]
    return png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:]


def write_coco(folder: Path, count: int) -> Path:
    """`folder`/captions.json and `folder`/images with `count` images, two captions each."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        name = f"{number:012d}.jpg"
        (folder / "images" / name).write_bytes(encoded(photo(number), quality=90))
        images.append({"id": number, "file_name": name, "height": 72, "width": 96})
        for turn, text in enumerate((caption(number), f"Another view: {caption(number)}")):
            annotations.append({"id": 2 * number + turn, "image_id": number, "caption": text})
    path = folder / "captions.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def write_list(folder: Path, count: int) -> Path:
    """`folder`/list.jsonl beside `count` images."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(encoded(photo(number), quality=90))
        lines.append(json.dumps({"file": f"{number}.jpg", "caption": caption(number)}))
    path = folder / "list.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def remarks(folder: Path, outcome: str = "rejected") -> dict[str, str]:
    """What the import said of its items: reasons by item, of one outcome."""
    lines = [json.loads(line) for line in (folder / REPORT).read_text().splitlines()]
    return {line["item"]: line["reason"] for line in lines if line["outcome"] == outcome}
