"""Lists of non-zero weights in plain JAX."""

import jax.numpy as jnp
from jax import Array

from mbu_jax.packing import WORD_BITS


def bitsliced_lists_xla(weights: Array, planes: Array, *, channel_step: int, zeros: int) -> Array:
    """Count what comes before each bit that is set, and put it there.

    Args:
      weights: [M, L, S] uint32.
      planes: [S] int32.
      channel_step: words between the planes of two bits.
      zeros: words to a plane whose bits are all 0.

    Returns:
      [M, L, 32 S] int32.
    """
    outputs, lists, words = weights.shape
    entries = WORD_BITS * words
    place = jnp.arange(WORD_BITS, dtype=jnp.uint32)
    chosen = (weights[..., None] >> place.reshape(1, 1, 1, -1)) & jnp.uint32(1)
    chosen = chosen.reshape(-1, entries) == 1
    steps = jnp.int32(channel_step) * place.astype(jnp.int32)
    entry = (planes[:, None] + steps[None]).reshape(1, entries)
    before = jnp.cumsum(chosen, axis=1, dtype=jnp.int32) - 1
    row = jnp.arange(outputs * lists, dtype=jnp.int32)[:, None]
    # Beyond the end nothing is stored.
    place = jnp.where(chosen, before, entries)
    filled = jnp.full(chosen.shape, zeros, jnp.int32)
    filled = filled.at[row, place].set(jnp.broadcast_to(entry, chosen.shape), mode="drop")
    return filled.reshape(outputs, lists, entries)
