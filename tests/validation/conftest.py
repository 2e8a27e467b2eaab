"""A small good data set of real PNGs, to be broken in one way at a time."""

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from safeclip.core.guard import load_guard
from safeclip.core.records import IMAGES, QUADRUPLETS
from safeclip.settings import ValidateData
from safeclip.validation.facts import image_facts
from safeclip.validation.quarantine import validate
from tests.support.params import make_settings

CATEGORIES = ("hate", "harassment", "violence", "self-harm", "sexual", "shocking", "illegal")
PLACES = ("river", "bridge", "market", "garden", "harbour", "station", "museum", "forest", "castle", "desert")
THINGS = ("bicycle", "violin", "kettle", "ladder", "teapot", "rocket", "anchor")
STATES = [("unsafe", "unsafe")] * 7 + [("unsafe", "safe"), ("safe", "unsafe"), ("safe", "safe")]
BOUNDS = make_settings(validate_data={"min_rows": 50, "sample_rows": 4}).validate_data
FORBIDDEN = ("blorptoken", "zibbertoken")


def png(seed: int, side: int = 48) -> bytes:
    """An image of random coloured tiles; different seeds are far apart, the same seed is the same bytes."""
    tiles = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(tiles).resize((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def good_rows(count: int = 70) -> pd.DataFrame:
    """`count` rows that meet the contract: 60 % train, 20 % val, 20 % test, all four label states."""
    rows = [_row(index) for index in range(count)]
    return pa.Table.from_pylist(rows, schema=QUADRUPLETS).to_pandas()


def _row(index: int) -> dict:
    place, thing = PLACES[index % 10], THINGS[index // 10 % 7]
    text, image = STATES[index % 10]
    return {
        "id": f"row-{index:04d}",
        "split": ("train", "train", "train", "val", "test")[index // 10 % 5],
        "caption_safe": f"a man with a {thing} near the {place}",
        "caption_generated": f"a man with a gun near the {place}",
        "image_safe": png(index),
        "image_generated": png(10_000 + index),
        "concept": "gun",
        "categories": [CATEGORIES[index % 7]],
        "text_label": text,
        "text_score": 0.9 if text == "unsafe" else 0.1,
        "image_label": image,
        "image_score": 0.9 if image == "unsafe" else 0.1,
        "rewriter": "test",
        "image_model": "test",
        "seed": index,
        "source": "made for the test",
    }


def with_facts(rows: pd.DataFrame, bounds: ValidateData = BOUNDS) -> pd.DataFrame:
    """Rows as the stage joins them: the facts of their images in place of the images."""
    images = rows[["id", "image_safe", "image_generated", "image_model"]].to_dict("records")
    facts = image_facts(pa.Table.from_pylist(images, schema=IMAGES), bounds.min_image_side)
    rest = rows.drop(columns=["image_safe", "image_generated", "image_model"]).reset_index(drop=True)
    return pd.concat([rest, facts.drop(columns="id")], axis=1)


@pytest.fixture
def rows() -> pd.DataFrame:
    return good_rows()


@pytest.fixture(scope="session")
def validated():
    """Judge rows with the small data set's bounds; the guard knows two made-up words that must not meet."""
    guard = load_guard().with_placeholders(minors=FORBIDDEN[:1], sexual=FORBIDDEN[1:])

    def run(rows: pd.DataFrame, bounds: ValidateData = BOUNDS, **books):
        return validate(with_facts(rows, bounds), bounds=bounds, guard=guard, categories=CATEGORIES, **books)

    return run
