"""Embeddings of the shipped base encoder: unit length, independent of their batch, and good enough."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from picturebook.drawing import draw
from picturebook.grammar import safe_scene, unsafe_scene
from safeclip.core.errors import DataError
from safeclip.encoders.embed import embed_images, embed_texts
from safeclip.encoders.load import load_encoder

CAPTIONS = [
    "a dog",
    "a man walks a dog near the river",
    "a construction worker and a farmer clean three alarm clocks next to the crowded hospital",
    "",
    "a woman with a gun robs a shop",
]


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("data/base_encoder")


def _pictures(count: int) -> list[bytes]:
    rng = np.random.default_rng(5)
    return [draw(safe_scene(rng).caption, "photo", seed).png for seed in range(count)]


def _recoded(png: bytes, mode: str, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def test_embeddings_are_float32_of_unit_length(encoder):
    for embedded in (embed_texts(encoder, CAPTIONS), embed_images(encoder, _pictures(3))):
        assert embedded.dtype == torch.float32
        assert embedded.shape[1] == encoder.embed_dim
        assert torch.allclose(embedded.norm(dim=1), torch.ones(len(embedded)), atol=1e-5)


def test_a_caption_does_not_depend_on_its_batch(encoder):
    together = embed_texts(encoder, CAPTIONS)
    alone = torch.cat([embed_texts(encoder, [caption]) for caption in CAPTIONS])
    in_twos = embed_texts(encoder, CAPTIONS, batch_size=2)
    assert (together - alone).abs().max() < 1e-5
    assert (together - in_twos).abs().max() < 1e-5


def test_a_picture_does_not_depend_on_its_batch(encoder):
    pictures = _pictures(7)
    together = embed_images(encoder, pictures)
    assert (together - embed_images(encoder, pictures, batch_size=3)).abs().max() < 1e-5
    assert (together[4:5] - embed_images(encoder, pictures[4:5])).abs().max() < 1e-5


def test_nothing_in_nothing_out(encoder):
    assert embed_texts(encoder, []).shape == (0, encoder.embed_dim)
    assert embed_images(encoder, []).shape == (0, encoder.embed_dim)


@pytest.mark.parametrize(("mode", "kind"), [("RGBA", "PNG"), ("P", "PNG"), ("L", "PNG"), ("RGB", "JPEG")])
def test_pictures_of_other_modes_and_formats_count_as_their_rgb_form(encoder, mode, kind):
    picture = _recoded(_pictures(1)[0], mode, kind)
    in_rgb = _recoded(picture, "RGB", "PNG")
    assert torch.equal(embed_images(encoder, [picture]), embed_images(encoder, [in_rgb]))


@pytest.mark.parametrize("broken", [b"", b"no picture", b"GIF89a" + b"\0" * 40])
def test_a_broken_picture_is_named_by_its_index(encoder, broken):
    with pytest.raises(DataError, match="image 3:"):
        embed_images(encoder, [*_pictures(3), broken], batch_size=2)


def test_a_picture_cut_short_is_named_by_its_index(encoder):
    whole = _pictures(1)[0]
    with pytest.raises(DataError, match="image 1:"):
        embed_images(encoder, [whole, whole[: len(whole) // 2]])


@pytest.mark.parametrize(("make", "style"), [(safe_scene, "photo"), (unsafe_scene, "generated")])
def test_captions_find_their_pictures_and_back_on_fresh_scenes(encoder, make, style):
    rng = np.random.default_rng(20260)
    scenes = {scene.names: scene.caption for scene in (make(rng) for _ in range(420))}
    captions = list(scenes.values())[:400]
    texts = embed_texts(encoder, captions)
    images = embed_images(encoder, [draw(caption, style, seed).png for seed, caption in enumerate(captions)])
    pairs = torch.arange(len(captions))
    similarity = texts @ images.T
    assert float((similarity.argmax(dim=1) == pairs).float().mean()) >= 0.9
    assert float((similarity.argmax(dim=0) == pairs).float().mean()) >= 0.9
