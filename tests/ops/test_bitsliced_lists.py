"""Lists of non-zero weights against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbu_jax.errors import InputError
from mbu_jax.ops.bitsliced_lists import bitsliced_lists

STEP, ZEROS = 7, 999_999


@pytest.mark.parametrize("density", [0, 0.3, 1])
def test_lists_are_the_places_of_bits(density: float) -> None:
    rng = np.random.default_rng(0)
    chosen = rng.random((5, 2, 3, 32)) < density
    weights = jnp.asarray(np.packbits(chosen, axis=-1, bitorder="little").view("<u4")[..., 0])
    planes = np.array([40, 5000, 300], np.int32)
    lists = bitsliced_lists(weights, jnp.asarray(planes), channel_step=STEP, zeros=ZEROS)
    assert lists.shape == (5, 2, 96)
    assert lists.dtype == jnp.int32
    for output, number in np.ndindex(5, 2):
        word, bit = np.nonzero(chosen[output, number])
        expected = np.full(96, ZEROS)
        expected[: word.size] = planes[word] + STEP * bit
        np.testing.assert_array_equal(lists[output, number], expected)


@pytest.mark.parametrize(
    ("weights", "planes"),
    [
        (jnp.zeros((1, 2), jnp.uint32), jnp.zeros((2,), jnp.int32)),
        (jnp.zeros((1, 2, 3), jnp.uint32), jnp.zeros((2,), jnp.int32)),
        (jnp.zeros((1, 2, 3), jnp.int32), jnp.zeros((3,), jnp.int32)),
    ],
)
def test_other_arrays_are_refused(weights: jax.Array, planes: jax.Array) -> None:
    with pytest.raises(InputError, match="bitsliced_lists takes weights, uint32"):
        bitsliced_lists(weights, planes, channel_step=STEP, zeros=ZEROS)
