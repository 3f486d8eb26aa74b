"""The two layouts by way of codes, in plain JAX."""

from jax import Array

from mbu_jax.packing import channels_to_pixels, pixels_to_channels


def to_pixels_xla(words: Array, layer: None = None, *, channels: int) -> Array:
    """Unpack and pack.

    Args:
      words: [B, H, W, P, N] uint32.
      layer: None; a layout has no parameters.
      channels: C.

    Returns:
      [B, P, C, H, ceil(W/32)] uint32.
    """
    return channels_to_pixels(words, channels)


def to_channels_xla(planes: Array, layer: None = None, *, width: int) -> Array:
    """Unpack and pack.

    Args:
      planes: [B, P, C, H, N] uint32.
      layer: None; a layout has no parameters.
      width: W in pixels.

    Returns:
      [B, H, W, P, ceil(C/32)] uint32.
    """
    return pixels_to_channels(planes, width)
