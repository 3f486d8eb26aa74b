"""Packed 2x2 transposed convolution and comparison: the public function."""

from jax import Array

from mbu_jax.ops.up_conv2x2.primitive import OPERATION
from mbu_jax.packing import PackedConv


def up_conv2x2(x: Array, layer: PackedConv, *, implementation: str | None = None) -> Array:
    """Transposed convolution of words with 2x2 bit planes and stride 2, compared, as words.

    Args:
      x: [B, H, W, P, N] uint32, channel-packed, its segments those of the layer.
      layer: the layer, kernels 2x2.
      implementation: name of an engine, or None for the best that the device has.

    Returns:
      [B, 2H, 2W, P, ceil(K/32)] uint32, channel-packed.

    Raises:
      InputError: where x and layer do not fit, or the engine is unknown or cannot run.

    Example:
      >>> import jax.numpy as jnp
      >>> weights = jnp.array([0b11, 0b01, 0b10, 0b00], jnp.uint32).reshape(2, 2, 1, 1)
      >>> layer = PackedConv(weights, None, None, jnp.zeros((1, 1), jnp.int32), segments=(2,))
      >>> up_conv2x2(jnp.full((1, 1, 1, 1, 1), 0b11, jnp.uint32), layer)[0, :, :, 0, 0].tolist()
      [[1, 1], [1, 0]]
    """
    return OPERATION(x, layer, implementation=implementation)
