"""Logits of packed activations in plain JAX."""

import jax.numpy as jnp
from jax import Array, lax

from mbu_jax.packing import WORD_BITS, PackedHead


def head_xla(x: Array, layer: PackedHead) -> Array:
    """Add or subtract one weight after the other, a bit choosing which.

    Args:
      x: [B, H, W, P, N] uint32.
      layer: weights and bias, whose sums are exact in any order.

    Returns:
      [B, H, W, classes] float32.
    """
    slabs = x.transpose(3, 4, 0, 1, 2)
    planes, words, *image = slabs.shape
    channels, classes = layer.weight.shape
    missing = words * WORD_BITS - channels
    weight = jnp.pad(layer.weight.T, ((0, 0), (0, missing)))
    weight = weight.reshape(classes, words, WORD_BITS)

    def logits(one: tuple[Array, Array]) -> Array:
        weight, bias = one

        def add_word(total: Array, some: tuple[Array, Array]) -> tuple[Array, None]:
            word, weight = some
            for plane in range(planes):
                for channel in range(WORD_BITS):
                    bit = (word[plane] >> jnp.uint32(channel)) & jnp.uint32(1)
                    signed = jnp.where(bit == 1, weight[channel], -weight[channel])
                    total = total + (signed * 2**plane if plane else signed)
            return total, None

        start = jnp.broadcast_to(bias.reshape(1, 1, 1), image)
        return lax.scan(add_word, start, (slabs.swapaxes(0, 1), weight))[0]

    return jnp.moveaxis(lax.map(logits, (weight, layer.bias)), 0, -1)
