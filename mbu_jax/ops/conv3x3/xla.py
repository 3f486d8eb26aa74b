"""Packed 3x3 convolution in plain JAX."""

import jax.numpy as jnp
from jax import Array

from mbu_jax.ops.counting import correlate, weights_of
from mbu_jax.packing import PackedConv


def conv3x3_xla(x: Array, layer: PackedConv) -> Array:
    """Count agreeing bits of words; see `mbu_jax.ops.counting`.

    Args:
      x: [B, H, W, P, N] uint32.
      layer: the layer.

    Returns:
      [B, H, W, P, ceil(K/32)] uint32.
    """
    border = ((0, 0), (1, 1), (1, 1), (0, 0), (0, 0))
    slabs = jnp.pad(x, border).transpose(3, 4, 0, 1, 2)
    return correlate(slabs, weights_of(layer, tap_is_output=False), side=3)
