"""The convolution on the image in plain JAX, a few rows at a time."""

import jax.numpy as jnp
from jax import Array, lax

from mbu_jax.convolution import exact_conv3x3
from mbu_jax.images import numerators
from mbu_jax.ops.blocks import row_blocks
from mbu_jax.ops.values import codes_of
from mbu_jax.packing import PackedStem

_PIXELS_PER_BLOCK = 4096


def stem_xla(levels: Array, layer: PackedStem) -> Array:
    """Convolve, compare and pack blocks of rows, so that no image of floats has all channels.

    Args:
      levels: [B, H, W, C] uint8.
      layer: weights and thresholds.

    Returns:
      [B, H, W, P, ceil(K/32)] uint32.
    """
    batch, height, width, _ = levels.shape
    blocks, rows = row_blocks(height, batch * width, _PIXELS_PER_BLOCK)
    border = ((0, 0), (1, 1 + blocks * rows - height), (0, 0), (0, 0))
    x = jnp.pad(numerators(levels), border)
    weight = layer.weight.astype(jnp.float32)

    def block(top: Array) -> Array:
        image = lax.dynamic_slice_in_dim(x, top, rows + 2, axis=1)
        # The rows above and below stand for the border that the convolution adds.
        return codes_of(exact_conv3x3(image, weight)[:, 1:-1], layer.theta)

    words = lax.map(block, jnp.arange(blocks) * rows)  # [blocks, B, rows, W, P, N]
    words = jnp.moveaxis(words, 0, 1)
    return words.reshape(batch, blocks * rows, *words.shape[3:])[:, :height]
