"""Channel-packed words to pixel-packed planes, and back."""

from mbu_jax.ops.transpose_bits.api import to_channels, to_pixels

__all__ = ["to_channels", "to_pixels"]
