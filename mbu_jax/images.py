"""What numbers of an image a network sees: floats in training, 256 levels once it is quantized."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from mbu_jax.errors import InputError

LARGEST_LEVEL = 255


def image_to_float(images: Array) -> Array:
    """Images as float32 in [0, 1].

    Args:
      images: array of any shape, uint8 (divided by 255) or floating (taken as it is).

    Returns:
      Float32 array of the same shape.

    Raises:
      InputError: for any other dtype.

    Example:
      >>> image_to_float(jnp.array([255], jnp.uint8)).tolist()
      [1.0]
    """
    if images.dtype == jnp.uint8:
        # A table, because compilers multiply by 1/255 and miss NumPy's quotients by a rounding.
        table = jnp.asarray(np.arange(256, dtype=np.float32) / np.float32(LARGEST_LEVEL))
        return table.at[images].get(mode="promise_in_bounds")
    check_image_dtype(images)
    return images.astype(jnp.float32)


def image_to_levels(images: Array) -> Array:
    """Images as the 256 levels that a quantized network evaluates.

    Args:
      images: array of any shape, uint8 (taken as it is) or floating: 255 times the value, rounded
        to the nearest integer; what lies below 0 or is no number becomes 0, above 1 becomes 255.

    Returns:
      Uint8 array of the same shape.

    Raises:
      InputError: for any other dtype.

    Example:
      >>> image_to_levels(jnp.array([-1.0, 0.5, 1.0])).tolist()
      [0, 128, 255]
    """
    check_image_dtype(images)
    if images.dtype == jnp.uint8:
        return images
    levels = jnp.round(LARGEST_LEVEL * images.astype(jnp.float32))
    # Comparisons with a number that is none fail, so those become 0.
    return jnp.where(levels > 0, jnp.minimum(levels, LARGEST_LEVEL), 0).astype(jnp.uint8)


def numerators(levels: Array) -> Array:
    """Numerators of ``2 image - 1`` over 255: the odd integers from -255 to 255.

    Args:
      levels: uint8 array.

    Returns:
      Float32 array of the same shape: 2 levels - 255.

    Example:
      >>> numerators(jnp.array([0, 255], jnp.uint8)).tolist()
      [-255.0, 255.0]
    """
    return 2 * levels.astype(jnp.float32) - LARGEST_LEVEL


def check_image_dtype(images: Array) -> None:
    """Refuse what is no image.

    Args:
      images: array of any shape.

    Raises:
      InputError: for a dtype that is neither uint8 nor floating.
    """
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"images have dtype {images.dtype}; give uint8, or float32 in [0, 1]")
