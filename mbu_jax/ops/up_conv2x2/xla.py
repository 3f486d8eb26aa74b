"""Packed 2x2 transposed convolution in plain JAX."""

from jax import Array

from mbu_jax.ops.counting import correlate, weights_of
from mbu_jax.packing import PackedConv


def up_conv2x2_xla(x: Array, layer: PackedConv) -> Array:
    """Four 1x1 convolutions, interleaved; see `mbu_jax.ops.counting`.

    Args:
      x: [B, H, W, P, N] uint32.
      layer: the layer.

    Returns:
      [B, 2H, 2W, P, ceil(K/32)] uint32.
    """
    codes = correlate(x.transpose(3, 4, 0, 1, 2), weights_of(layer, tap_is_output=True), side=1)
    batch, height, width, planes, words = codes.shape
    words //= 4
    codes = codes.reshape(batch, height, width, planes, 2, 2, words)
    codes = codes.transpose(0, 1, 4, 2, 5, 3, 6)
    return codes.reshape(batch, 2 * height, 2 * width, planes, words)
