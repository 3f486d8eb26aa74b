"""The convolution on the image as its definition reads."""

import jax.numpy as jnp
from jax import Array

from mbu_jax.convolution import conv3x3
from mbu_jax.images import numerators
from mbu_jax.ops.values import codes_of
from mbu_jax.packing import PackedStem


def stem_reference(levels: Array, layer: PackedStem) -> Array:
    """Convolve the whole image; for tests and as a benchmark's baseline.

    Args:
      levels: [B, H, W, C] uint8.
      layer: weights and thresholds.

    Returns:
      [B, H, W, P, ceil(K/32)] uint32.
    """
    y = conv3x3(numerators(levels), layer.weight.astype(jnp.float32), 0.0)
    return codes_of(y, layer.theta)
