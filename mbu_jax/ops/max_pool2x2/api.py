"""Max-pool of packed activations: the public function."""

from jax import Array

from mbu_jax.ops.max_pool2x2.primitive import OPERATION


def max_pool2x2(x: Array, *, implementation: str | None = None) -> Array:
    """2x2 max-pool with stride 2: OR of one-bit codes, the larger of two-bit ones.

    Args:
      x: [B, H, W, P, N] uint32, channel-packed, H and W even.
      implementation: name of an engine, or None for the best that the device has.

    Returns:
      [B, H/2, W/2, P, N] uint32.

    Raises:
      InputError: where x does not fit, or the engine is unknown or cannot run.

    Example:
      >>> import jax.numpy as jnp
      >>> max_pool2x2(jnp.array([1, 2, 0, 0], jnp.uint32).reshape(1, 2, 2, 1, 1)).ravel().tolist()
      [3]
    """
    return OPERATION(x, None, implementation=implementation)
