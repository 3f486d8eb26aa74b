"""Packed 3x3 convolution and comparison: the public function."""

from jax import Array

from mbu_jax.ops.conv3x3.primitive import OPERATION
from mbu_jax.packing import PackedConv


def conv3x3(x: Array, layer: PackedConv, *, implementation: str | None = None) -> Array:
    """Convolve words with 3x3 bit planes, compare with thresholds, give words.

    Stride 1, same size; outside the image activations have their lowest level, code 0.

    Args:
      x: [B, H, W, P, N] uint32, channel-packed, its segments those of the layer.
      layer: the layer, kernels 3x3.
      implementation: name of an engine, or None for the best that the device has.

    Returns:
      [B, H, W, P, ceil(K/32)] uint32, channel-packed.

    Raises:
      InputError: where x and layer do not fit, or the engine is unknown or cannot run.

    Example:
      >>> import jax.numpy as jnp
      >>> ones = jnp.full((3, 3, 1, 1), 0b11, jnp.uint32)  # two channels in, one out
      >>> layer = PackedConv(ones, None, None, jnp.full((1, 1), 18, jnp.int32), segments=(2,))
      >>> x = jnp.full((1, 3, 3, 1, 1), 0b11, jnp.uint32)
      >>> conv3x3(x, layer)[0, :, :, 0, 0].tolist()  # the border holds -1
      [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    """
    return OPERATION(x, layer, implementation=implementation)
