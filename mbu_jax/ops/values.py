"""Packed activations and weights as numbers, for the references."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from mbu_jax.packing import PackedConv, pack_channels, unpack_channels, word_count


def _channels(words: Array, segments: Sequence[int]) -> Array:
    """[..., P, N] uint32 to [..., C] uint8 codes, segment after segment."""
    parts, start = [], 0
    for channels in segments:
        stop = start + word_count(channels)
        parts.append(unpack_channels(words[..., start:stop], channels))
        start = stop
    return jnp.concatenate(parts, axis=-1)


def activation_values(words: Array, segments: Sequence[int]) -> Array:
    """Levels of packed activations.

    Args:
      words: [..., P, N] uint32.
      segments: channels of each concatenated part.

    Returns:
      [..., C] float32: -1 and 1, or -3, -1, 1 and 3.

    Example:
      >>> activation_values(jnp.array([[5]], jnp.uint32), (3,)).tolist()
      [1.0, -1.0, 1.0]
    """
    levels = 2 ** words.shape[-2] - 1
    return 2 * _channels(words, segments).astype(jnp.float32) - levels


def weight_values(layer: PackedConv) -> Array:
    """Weights of a packed layer.

    Args:
      layer: the layer.

    Returns:
      [h, w, C, K] float32 integers.

    Example:
      >>> planes = jnp.full((2, 2, 1, 1), 0b01, jnp.uint32)
      >>> layer = PackedConv(planes, None, None, jnp.zeros((1, 1), jnp.int32), segments=(2,))
      >>> weight_values(layer)[0, 0].tolist()
      [[1.0], [-1.0]]
    """

    def numbers(plane: Array) -> Array:
        return _channels(plane[..., None, :], layer.segments).astype(jnp.float32).swapaxes(2, 3)

    positive = numbers(layer.positive)
    if layer.negative is None:
        return 2 * positive - 1
    weights = positive - numbers(layer.negative)
    if layer.exponent is not None:
        weights = weights * (1 + numbers(layer.exponent[0]) + 3 * numbers(layer.exponent[1]))
    return weights


def codes_of(y: Array, theta: Array) -> Array:
    """Compare accumulators with thresholds and pack the codes.

    Args:
      y: [B, H, W, K] float32 integers, up to a rounding.
      theta: [T, K] int32.

    Returns:
      [B, H, W, P, ceil(K/32)] uint32.
    """
    # Some GPU convolutions (Winograd) miss integers by a rounding.
    passed = jnp.round(y).astype(jnp.int32)[..., None, :] >= theta.reshape(1, 1, 1, *theta.shape)
    bits = (theta.shape[0] + 1).bit_length() - 1
    return pack_channels(passed.sum(axis=-2).astype(jnp.uint8), bits)
