"""Packing of codes in plain JAX."""

from jax import Array

from mbu_jax.packing import pack_channels


def pack_bits_xla(codes: Array, layer: None = None, *, bits: int) -> Array:
    """Shift every bit to its place and add.

    Args:
      codes: [B, H, W, C] uint8.
      layer: None; packing has no parameters.
      bits: 1 or 2.

    Returns:
      [B, H, W, P, ceil(C/32)] uint32.
    """
    return pack_channels(codes, bits)
