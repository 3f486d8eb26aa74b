"""Packed max-pool as its definition reads: unpack to codes, take the largest."""

from jax import Array

from mbu_jax.convolution import max_pool2x2
from mbu_jax.packing import WORD_BITS, pack_channels, unpack_channels


def max_pool2x2_reference(x: Array, layer: None = None) -> Array:
    """Largest code of every channel; for tests and as a benchmark's baseline.

    Args:
      x: [B, H, W, P, N] uint32.
      layer: None; a pool has no parameters.

    Returns:
      [B, H/2, W/2, P, N] uint32.
    """
    codes = unpack_channels(x, x.shape[-1] * WORD_BITS)
    return pack_channels(max_pool2x2(codes), bits=x.shape[-2])
