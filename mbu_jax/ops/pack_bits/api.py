"""Codes to words: the public function."""

from jax import Array

from mbu_jax.ops.pack_bits.primitive import OPERATION


def pack_bits(codes: Array, bits: int = 1, *, implementation: str | None = None) -> Array:
    """Pack codes of activations 32 channels a word.

    Args:
      codes: [B, H, W, C] uint8, 0 to 2^bits - 1.
      bits: 1 or 2.
      implementation: name of an engine, or None for the best that the device has.

    Returns:
      [B, H, W, P, ceil(C/32)] uint32.

    Raises:
      InputError: for another rank, dtype or number of bits, or an engine that is unknown or
        cannot run.

    Example:
      >>> import jax.numpy as jnp
      >>> pack_bits(jnp.array([1, 0, 3], jnp.uint8).reshape(1, 1, 1, 3), bits=2).ravel().tolist()
      [5, 4]
    """
    return OPERATION(codes, None, implementation=implementation, bits=bits)
