import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbu_jax.tiling import blend_weights, exact_overlap, seam_reach, tile_starts


def dilate(seen: np.ndarray) -> np.ndarray:
    """What two 3-tap convolutions see, one pixel to each side at a time."""
    for _ in range(2):
        seen = seen | np.roll(seen, 1) | np.roll(seen, -1)
    return seen


def touched(beyond: np.ndarray) -> np.ndarray:
    """Columns of the output that depend on a marked column of the image, level by level."""
    skips = []
    level = dilate(beyond)
    for _ in range(4):
        skips.append(level)
        level = dilate(level.reshape(-1, 2).any(axis=1))
    for skip in reversed(skips):
        level = dilate(level.repeat(2) | skip)
    return level


def test_the_reach_is_that_of_the_network():
    marked = np.zeros(1024, bool)
    marked[512:] = True  # roll joins the ends, so there is a seam at 0 as well
    clean = np.flatnonzero(~touched(marked))
    assert clean.min() == seam_reach()
    assert clean.max() == 511 - seam_reach()
    np.testing.assert_array_equal(np.diff(clean), 1)
    assert 2 * seam_reach() <= exact_overlap() < 2 * seam_reach() + 16


multiples = st.integers(1, 60).map(lambda n: 16 * n)


@given(length=multiples, tile=multiples, data=st.data())
def test_tiles_cover_an_axis_and_share_the_overlap(length, tile, data):
    overlap = 16 * data.draw(st.integers(0, tile // 16 - 1))
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0
    assert all(start % 16 == 0 for start in starts)
    if length <= tile:
        assert starts == [0]
        return
    assert starts[-1] + tile == length
    for one, following in itertools.pairwise(starts):
        assert one < following <= one + tile - overlap


@given(tile=multiples, data=st.data())
def test_every_pixel_has_weight(tile, data):
    overlap = 16 * data.draw(st.integers(0, tile // 16 - 1))
    shift = data.draw(st.integers(1, (tile - overlap) // 16)) * 16
    first = blend_weights(tile, overlap, before=False, after=True)
    second = blend_weights(tile, overlap, before=True, after=False)
    assert first.shape == second.shape == (tile,)
    assert (first[shift:] + second[: tile - shift] > 0).all()
    np.testing.assert_array_equal(first, second[::-1])
    if shift == tile - overlap:
        np.testing.assert_allclose(first[shift:] + second[:overlap], 1, rtol=1e-6)


@pytest.mark.parametrize("overlap", [192, 208, 256])
def test_what_a_seam_reaches_weighs_nothing(overlap):
    weights = blend_weights(512, overlap, before=True, after=True)
    for side in (weights, weights[::-1]):
        assert (side[: seam_reach()] == 0).all()
        assert side[seam_reach()] > 0
        assert (np.diff(side[:256]) >= 0).all()
        assert (side[overlap - seam_reach() : 256] == 1).all()


def test_less_overlap_is_blended_all_over():
    weights = blend_weights(128, 64, before=True, after=False)
    expected = 0.5 - 0.5 * np.cos(np.pi * (np.arange(64) + 0.5) / 64)
    np.testing.assert_allclose(weights[:64], expected, rtol=1e-6)
    assert (weights[64:] == 1).all()
