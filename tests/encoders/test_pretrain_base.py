"""The pretraining script: a killed run goes on as if nothing had happened, held-out scenes stay out."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import pretrain_base  # noqa: E402
from pretraining_evaluation import held_out_scenes  # noqa: E402
from pretraining_scenes import Scenery, draw_batch, glyph_set, rewritten, write_captions  # noqa: E402

SCENERY = Scenery(
    phrases=("a gun", "a broken bottle in a fight"), fillers=("quickly", "again"), held_out=frozenset()
)


@pytest.fixture
def run(tmp_path) -> Path:
    parts = tmp_path / "parts"
    parts.mkdir()
    pretrain_base.write_config(parts)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (parts / name).write_bytes((ROOT / "data/base_encoder" / name).read_bytes())
    return tmp_path


def _trained(run: Path, until: int) -> pretrain_base.Trainer:
    args = pretrain_base.parse_args(["--steps", "4", "--batch-size", "4"])
    trainer = pretrain_base.Trainer(args, run)
    trainer.resume()
    while trainer.step < until:
        trainer.learn(draw_batch(SCENERY, args.seed, trainer.step, args.batch_size, 64))
    return trainer


def test_a_run_that_was_killed_ends_with_the_same_weights(run, tmp_path):
    whole = _trained(run, 4).model.state_dict()
    _trained(run, 2).save()
    resumed = _trained(run, 4)
    assert resumed.step == 4
    assert all(torch.equal(whole[name], tensor) for name, tensor in resumed.model.state_dict().items())


def test_a_batch_depends_on_seed_and_step_alone():
    one, same, other = (draw_batch(SCENERY, 1, step, 12, 32) for step in (5, 5, 6))
    assert one.captions == same.captions
    assert np.array_equal(one.pixels, same.pixels)
    assert one.captions != other.captions


def test_no_training_scene_shows_what_is_held_out():
    first = write_captions(SCENERY, 1, 3, 30)
    held_out = frozenset(map(glyph_set, first[:10]))
    again = write_captions(Scenery(SCENERY.phrases, SCENERY.fillers, held_out), 1, 3, 30)
    assert not held_out & set(map(glyph_set, again))


def test_held_out_scenes_are_distinct_and_unsafe_where_they_should_be():
    scenes = held_out_scenes(Path("no such file"), 50, seed=3)
    assert len({glyph_set(c) for c in scenes.safe}) == len({glyph_set(c) for c in scenes.unsafe}) == 50


def test_a_rewritten_caption_holds_the_phrase_or_an_unsafe_word():
    rng = np.random.default_rng(0)
    caption = "a happy man feeds a small dog near the river"
    rewrites = {rewritten(caption, rng, ["a gun"]) for _ in range(50)}
    assert any("a gun" in text for text in rewrites)
    assert all(glyph_set(text) - glyph_set(caption) for text in rewrites)
