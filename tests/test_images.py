"""What a network sees of an image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mbu_jax.errors import InputError
from mbu_jax.images import image_to_float, image_to_levels, numerators

BYTES = np.arange(256, dtype=np.uint8)


def test_image_to_float() -> None:
    got = image_to_float(jnp.asarray(BYTES))
    np.testing.assert_array_equal(got, BYTES.astype(np.float32) / np.float32(255))
    assert image_to_float(jnp.ones(2, jnp.bfloat16)).dtype == jnp.float32


def test_bytes_and_their_quotients_have_the_same_levels() -> None:
    for images in (jnp.asarray(BYTES), image_to_float(jnp.asarray(BYTES))):
        for convert in (image_to_levels, jax.jit(image_to_levels)):
            levels = convert(images)
            assert levels.dtype == jnp.uint8
            np.testing.assert_array_equal(levels, BYTES)
    np.testing.assert_array_equal(numerators(jnp.asarray(BYTES)), 2.0 * BYTES - 255)


@given(arrays(np.float32, 64, elements=st.floats(-0.125, 1.125, width=32)))
@settings(max_examples=20, deadline=None)
def test_floats_become_the_nearest_level(values: np.ndarray) -> None:
    levels = np.asarray(image_to_levels(jnp.asarray(values)), np.float64)
    exact = np.clip(255 * values.astype(np.float64), 0, 255)
    assert (np.abs(levels - exact) <= 0.5 + 2e-5).all()


def test_every_float_has_a_level() -> None:
    images = jnp.asarray([-np.inf, -1, -0.0, 1.5, np.inf, np.nan], jnp.float32)
    assert image_to_levels(images).tolist() == [0, 0, 0, 255, 255, 0]
    assert image_to_levels(jnp.asarray([0.5], jnp.bfloat16)).tolist() == [128]


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.int8])
def test_other_dtypes_are_refused(dtype: type) -> None:
    for convert in (image_to_float, image_to_levels):
        with pytest.raises(InputError, match="give uint8, or float32"):
            convert(jnp.zeros((1,), dtype))
