"""Logits of packed activations: the public function."""

from jax import Array

from mbu_jax.ops.head.primitive import OPERATION
from mbu_jax.packing import PackedHead


def head(x: Array, layer: PackedHead, *, implementation: str | None = None) -> Array:
    """Sum the weights of every pixel's activations: ``logits = a.w + b``, exactly.

    Args:
      x: [B, H, W, P, N] uint32, channel-packed, one segment.
      layer: weights and bias.
      implementation: name of an engine, or None for the best that the device has.

    Returns:
      [B, H, W, classes] float32.

    Raises:
      InputError: where x and layer do not fit, the engine is unknown or cannot run, or a
        derivative is asked for.

    Example:
      >>> import jax.numpy as jnp
      >>> layer = PackedHead(jnp.array([[0.5], [0.25]]), jnp.array([1.0]))
      >>> head(jnp.full((1, 1, 1, 1, 1), 0b01, jnp.uint32), layer).ravel().tolist()
      [1.25]
    """
    return OPERATION(x, layer, implementation=implementation)
