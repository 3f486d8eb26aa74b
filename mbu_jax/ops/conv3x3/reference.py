"""Packed 3x3 convolution as its definition reads: unpack to integers, convolve, compare."""

from jax import Array

from mbu_jax.convolution import conv3x3
from mbu_jax.ops.values import activation_values, codes_of, weight_values
from mbu_jax.packing import PackedConv


def conv3x3_reference(x: Array, layer: PackedConv) -> Array:
    """Convolve floats that hold integers; for tests and as a benchmark's baseline.

    Args:
      x: [B, H, W, P, N] uint32.
      layer: the layer.

    Returns:
      [B, H, W, P, ceil(K/32)] uint32.
    """
    lowest = 1.0 - 2.0**layer.activation_bits
    y = conv3x3(activation_values(x, layer.segments), weight_values(layer), lowest)
    return codes_of(y, layer.theta)
