"""Codes to words."""

from mbu_jax.ops.pack_bits.api import pack_bits

__all__ = ["pack_bits"]
