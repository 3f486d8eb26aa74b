"""Packed max-pool in plain JAX."""

import functools

import jax.numpy as jnp
from jax import Array


def max_pool2x2_xla(x: Array, layer: None = None) -> Array:
    """Larger code of every channel, 32 at a time.

    Args:
      x: [B, H, W, P, N] uint32.
      layer: None; a pool has no parameters.

    Returns:
      [B, H/2, W/2, P, N] uint32.
    """
    quarters = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return functools.reduce(_larger, quarters)


def _larger(a: Array, b: Array) -> Array:
    if a.shape[3] == 1:
        return a | b
    low_a, high_a = a[..., 0, :], a[..., 1, :]
    low_b, high_b = b[..., 0, :], b[..., 1, :]
    # A low bit counts unless the other code's high bit beats it.
    low = (low_a & (high_a | ~high_b)) | (low_b & (high_b | ~high_a))
    return jnp.stack([low, high_a | high_b], axis=-2)
