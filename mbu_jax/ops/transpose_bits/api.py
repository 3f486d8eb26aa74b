"""Channel-packed words to pixel-packed planes, and back: the public functions."""

from jax import Array

from mbu_jax.ops.transpose_bits.primitive import TO_CHANNELS, TO_PIXELS


def to_pixels(words: Array, channels: int, *, implementation: str | None = None) -> Array:
    """Turn channel-packed activations into pixel-packed ones.

    Args:
      words: [B, H, W, P, N] uint32, one segment.
      channels: C.
      implementation: name of an engine, or None for the best that the device has.

    Returns:
      [B, P, C, H, ceil(W/32)] uint32.

    Raises:
      InputError: for words that do not fit, or an engine that is unknown or cannot run.

    Example:
      >>> import jax.numpy as jnp
      >>> to_pixels(jnp.array([[[[[1]], [[3]]]]], jnp.uint32), channels=2).tolist()
      [[[[[3]], [[2]]]]]
    """
    return TO_PIXELS(words, None, implementation=implementation, channels=channels)


def to_channels(planes: Array, width: int, *, implementation: str | None = None) -> Array:
    """Turn pixel-packed activations into channel-packed ones.

    Args:
      planes: [B, P, C, H, N] uint32.
      width: W in pixels.
      implementation: name of an engine, or None for the best that the device has.

    Returns:
      [B, H, W, P, ceil(C/32)] uint32.

    Raises:
      InputError: for planes that do not fit, or an engine that is unknown or cannot run.

    Example:
      >>> import jax.numpy as jnp
      >>> to_channels(jnp.array([[[[[3]], [[2]]]]], jnp.uint32), width=2).tolist()
      [[[[[1]], [[3]]]]]
    """
    return TO_CHANNELS(planes, None, implementation=implementation, width=width)
