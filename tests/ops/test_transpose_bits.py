"""The ways between the two layouts as operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbu_jax.errors import InputError
from mbu_jax.ops.transpose_bits import to_channels, to_pixels
from tests.oracles import packed_network

CODES = np.random.default_rng(0).integers(0, 4, (2, 3, 37, 40)).astype(np.uint8)
WORDS = jnp.asarray(packed_network.write_codes(CODES, 2))


def test_planes_hold_the_pixels_of_a_row_and_come_back() -> None:
    planes = jax.jit(to_pixels, static_argnums=1)(WORDS, 40)
    of_rows = packed_network.read_codes(np.asarray(planes).transpose(0, 2, 3, 1, 4), segments=(37,))
    np.testing.assert_array_equal(of_rows.transpose(0, 2, 3, 1), CODES)
    assert not (np.asarray(planes)[..., 1] >> 5).any()
    np.testing.assert_array_equal(to_channels(planes, 37), WORDS)


def test_mapped_images_are_a_larger_batch() -> None:
    pair = jnp.stack([WORDS, WORDS[::-1]])
    planes = jax.vmap(lambda words: to_pixels(words, 40))(pair)
    np.testing.assert_array_equal(planes[0], to_pixels(WORDS, 40))
    np.testing.assert_array_equal(planes[1], planes[0, ::-1])
    np.testing.assert_array_equal(jax.vmap(lambda x: to_channels(x, 37))(planes), pair)


def test_what_does_not_fit_is_refused() -> None:
    planes = to_pixels(WORDS, 40)
    with pytest.raises(InputError, match="2 words a pixel; 32 channels take 1"):
        to_pixels(WORDS, 32)
    with pytest.raises(InputError, match="to_pixels takes channel-packed words"):
        to_pixels(planes[0], 40)
    with pytest.raises(InputError, match="2 words a row; 65 pixels take 3"):
        to_channels(planes, 65)
    with pytest.raises(InputError, match="to_channels takes pixel-packed planes"):
        to_channels(planes.astype(jnp.int32), 37)
    with pytest.raises(InputError, match="it runs on cuda, not on cpu"):
        to_channels(planes, 37, implementation="bitsliced")
