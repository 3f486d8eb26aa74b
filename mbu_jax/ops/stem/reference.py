"""The convolution on the image as its definition reads."""

import jax.numpy as jnp
from jax import Array

from mbu_jax.convolution import conv3x3
from mbu_jax.packing import PackedStem, pack_channels


def stem_reference(images: Array, layer: PackedStem) -> Array:
    """Convolve the whole image; for tests and as a benchmark's baseline.

    Args:
      images: [B, H, W, C] float32 in [0, 1].
      layer: weights and thresholds.

    Returns:
      [B, H, W, P, ceil(K/32)] uint32.
    """
    y = conv3x3(2 * images - 1, layer.weight, 0.0) * layer.sign.reshape(1, 1, 1, -1)
    passed = y[..., None, :] >= layer.theta.reshape(1, 1, 1, *layer.theta.shape)
    return pack_channels(passed.sum(axis=-2).astype(jnp.uint8), layer.activation_bits)
