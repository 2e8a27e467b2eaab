"""The grammar: seeded, varied, and every caption fully understood by the lexicon."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from picturebook.grammar import safe_scene, single_scene, unsafe_scene
from picturebook.lexicon import BY_NAME, CATEGORIES, LEXICON, find_entries
from safeclip.core.errors import DataError

seeds = st.integers(0, 2**63 - 1)


@given(seed=seeds, make=st.sampled_from([safe_scene, unsafe_scene, single_scene]))
def test_every_caption_names_exactly_the_entries_the_scene_reports(seed: int, make) -> None:  # type: ignore[no-untyped-def]
    scene = make(np.random.default_rng(seed))
    assert tuple(entry.name for entry in find_entries(scene.caption)) == scene.names
    assert scene.caption == " ".join(scene.caption.split())


@given(seed=seeds)
def test_safe_scenes_are_safe_and_unsafe_scenes_have_one_or_two_unsafe_entries(seed: int) -> None:
    safe, unsafe = safe_scene(np.random.default_rng(seed)), unsafe_scene(np.random.default_rng(seed))
    assert not safe.unsafe
    assert 2 <= len(safe.names) <= 4
    assert 1 <= sum(BY_NAME[name].unsafe for name in unsafe.names) <= 2
    assert len(unsafe.names) <= 4


@given(seed=seeds)
def test_the_same_seed_gives_the_same_scene(seed: int) -> None:
    assert safe_scene(np.random.default_rng(seed)) == safe_scene(np.random.default_rng(seed))


def test_two_thousand_scenes_hardly_ever_repeat_and_use_the_whole_lexicon() -> None:
    rng = np.random.default_rng(0)
    safe = [safe_scene(rng) for _ in range(2000)]
    unsafe = [unsafe_scene(rng) for _ in range(2000)]
    assert len({frozenset(scene.names) for scene in safe}) > 1900
    assert len({scene.caption for scene in safe}) > 1950
    assert {name for scene in [*safe, *unsafe] for name in scene.names} == set(BY_NAME)


def test_unsafe_scenes_cover_the_seven_categories() -> None:
    rng, total = np.random.default_rng(1), 1000
    counts = dict.fromkeys(CATEGORIES, 0)
    for _ in range(total):
        for category in {c for name in unsafe_scene(rng).names for c in BY_NAME[name].categories}:
            counts[category] += 1
    assert min(counts.values()) > 0.1 * total, counts


@given(entry=st.sampled_from(LEXICON), seed=seeds)
def test_a_single_caption_shows_the_entry_asked_for(entry, seed: int) -> None:  # type: ignore[no-untyped-def]
    assert single_scene(np.random.default_rng(seed), entry.name).names == (entry.name,)


def test_a_name_that_is_not_in_the_lexicon_is_refused() -> None:
    with pytest.raises(DataError, match="'unicycle' is not in the picture book's lexicon"):
        single_scene(np.random.default_rng(0), "unicycle")
