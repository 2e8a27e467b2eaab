"""Drawing: what is reported is what is in the picture; same arguments, same bytes."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from picturebook.drawing import GLYPH_LIMIT, NEUTRAL, draw, paint
from picturebook.grammar import unsafe_scene
from picturebook.lexicon import BY_NAME, LEXICON
from safeclip.core.errors import DataError

CAPTION = "a woman feeds a dog beside the river"
UNSAFE_CAPTION = "a woman feeds a dog with a gun beside the river"


def _signature(pixels: np.ndarray) -> np.ndarray:
    """The drawn thing cut out of a plain photo backdrop (which is even along a row) and scaled to 24 x 24."""
    difference = np.abs(pixels.astype(float) - pixels[:, :1]).max(axis=-1) > 25
    rows, columns = np.flatnonzero(difference.any(1)), np.flatnonzero(difference.any(0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    cut = np.where(difference[..., None], pixels, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(cut).crop(box).resize((24, 24)), float).ravel()


def test_every_glyph_draws_and_looks_like_itself_and_nothing_else() -> None:
    names = [entry.name for entry in LEXICON]
    one = np.stack([_signature(paint(name, "photo", 1)[0]) for name in names])
    other = np.stack([_signature(paint(name, "photo", 2)[0]) for name in names])
    distances = ((one**2).sum(1)[:, None] - 2 * one @ other.T + (other**2).sum(1)).round()
    nearest = [names[index] for index in distances.argmin(axis=1)]
    assert nearest == names


@pytest.mark.parametrize("size", [32, 64, 224])
@pytest.mark.parametrize("style", ["photo", "generated"])
def test_a_picture_is_an_rgb_png_of_the_size_asked_for(style, size: int) -> None:  # type: ignore[no-untyped-def]
    image = Image.open(io.BytesIO(draw(CAPTION, style, 3, size).png))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (size, size))


def test_glyphs_are_reported_in_order_of_mention() -> None:
    assert draw(CAPTION, "photo", 0).glyphs == ("woman", "dog", "river")
    assert draw("the river behind a dog", "photo", 0).glyphs == ("river", "dog")


def test_the_first_mentioned_thing_stands_left() -> None:
    pixels, _ = paint("a tomato and a blueish cloud", "photo", 4)
    red = (pixels[..., 0] > 180) & (pixels[..., 1] < 90)
    assert np.flatnonzero(red.any(axis=0)).mean() < 32


@given(seed=st.integers(0, 2**62), style=st.sampled_from(["photo", "generated"]))
@settings(max_examples=40, deadline=None)
def test_drawing_is_deterministic_and_omits_exactly_the_unsafe_glyphs(seed: int, style) -> None:  # type: ignore[no-untyped-def]
    scene = unsafe_scene(np.random.default_rng(seed))
    assert draw(scene.caption, style, seed) == draw(scene.caption, style, seed)
    assert draw(scene.caption, style, seed).glyphs == scene.names
    kept = tuple(name for name in scene.names if not BY_NAME[name].unsafe) or (NEUTRAL,)
    assert draw(scene.caption, style, seed, omit_unsafe=True).glyphs == kept


def test_leaving_out_the_only_glyph_draws_a_neutral_safe_one() -> None:
    assert draw("a pistol", "generated", 0, omit_unsafe=True).glyphs == (NEUTRAL,)
    assert not BY_NAME[NEUTRAL].unsafe
    assert draw(UNSAFE_CAPTION, "photo", 0, omit_unsafe=True).png != draw(UNSAFE_CAPTION, "photo", 0).png


def test_another_seed_gives_another_picture_of_the_same_things() -> None:
    one, other = draw(CAPTION, "photo", 1), draw(CAPTION, "photo", 2)
    assert one.png != other.png
    assert one.glyphs == other.glyphs


@pytest.mark.parametrize(("caption", "count"), [("a tomato", 1), ("two tomatoes", 2), ("three tomatoes", 3)])
def test_number_words_draw_that_many(caption: str, count: int) -> None:
    pixels = paint(caption, "photo", 5, 128)[0].astype(int)
    red = (pixels[..., 0] > 180) & (pixels[..., 1] < 90)
    _, sizes = np.unique(ndimage.label(red)[0], return_counts=True)
    assert (sizes[1:] > 20).sum() == count


def test_the_two_styles_can_be_told_apart_by_their_borders() -> None:
    def border(style) -> float:  # type: ignore[no-untyped-def]
        return float(np.mean([paint("a tree", style, seed)[0][0].mean() for seed in range(50)]))

    assert border("photo") - border("generated") > 60


def test_a_long_caption_draws_and_reports_the_first_glyphs_only() -> None:
    caption = "a dog, a cat, a cow, a pig, a fox, a bear, a lion and a gun"
    assert draw(caption, "photo", 0).glyphs == ("dog", "cat", "cow", "pig", "fox", "bear")
    assert GLYPH_LIMIT == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "photo", 0), "caption '' names nothing"),
        (("the quality of mercy", "photo", 0), "names nothing in the picture book"),
        (("a dog", "oil", 0), "style 'oil' is unknown"),
        (("a dog", "photo", -1), "seed -1 is negative"),
        (("a dog", "photo", 0, 4), "picture size 4 is out of range"),
    ],
)
def test_bad_input_is_one_clear_line(arguments: tuple, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        draw(*arguments)
    assert "\n" not in str(caught.value)
