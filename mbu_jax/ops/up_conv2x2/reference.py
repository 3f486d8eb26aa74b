"""Packed 2x2 transposed convolution as its definition reads: integers, a sum, comparisons."""

from jax import Array

from mbu_jax.convolution import up_conv2x2
from mbu_jax.ops.values import activation_values, codes_of, weight_values
from mbu_jax.packing import PackedConv


def up_conv2x2_reference(x: Array, layer: PackedConv) -> Array:
    """Convolve floats that hold integers; for tests and as a benchmark's baseline.

    Args:
      x: [B, H, W, P, N] uint32.
      layer: the layer.

    Returns:
      [B, 2H, 2W, P, ceil(K/32)] uint32.
    """
    y = up_conv2x2(activation_values(x, layer.segments), weight_values(layer))
    return codes_of(y, layer.theta)
