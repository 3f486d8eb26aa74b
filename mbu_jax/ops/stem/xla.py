"""The convolution on the image in plain JAX, a few rows at a time."""

import jax.numpy as jnp
from jax import Array, lax

from mbu_jax.convolution import conv3x3
from mbu_jax.ops.blocks import row_blocks
from mbu_jax.packing import PackedStem, pack_channels

_PIXELS_PER_BLOCK = 4096


def stem_xla(images: Array, layer: PackedStem) -> Array:
    """Convolve, compare and pack blocks of rows, so that no image of floats has all channels.

    Args:
      images: [B, H, W, C] float32 in [0, 1].
      layer: weights and thresholds.

    Returns:
      [B, H, W, P, ceil(K/32)] uint32.
    """
    batch, height, width, _ = images.shape
    blocks, rows = row_blocks(height, batch * width, _PIXELS_PER_BLOCK)
    x = jnp.pad(2 * images - 1, ((0, 0), (1, 1 + blocks * rows - height), (0, 0), (0, 0)))
    sign = layer.sign.reshape(1, 1, 1, -1)

    def block(top: Array) -> Array:
        image = lax.dynamic_slice_in_dim(x, top, rows + 2, axis=1)
        # The rows above and below stand for the border that the convolution adds.
        y = conv3x3(image, layer.weight, 0.0)[:, 1:-1] * sign
        code = sum((y >= t.reshape(1, 1, 1, -1)).astype(jnp.uint8) for t in layer.theta)
        return pack_channels(jnp.asarray(code), layer.activation_bits)

    words = lax.map(block, jnp.arange(blocks) * rows)  # [blocks, B, rows, W, P, N]
    words = jnp.moveaxis(words, 0, 1)
    return words.reshape(batch, blocks * rows, *words.shape[3:])[:, :height]
