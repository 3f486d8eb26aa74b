"""Checks of shape and dtype that the operations share."""

from typing import Any

import jax
import jax.numpy as jnp

from mbu_jax.errors import InputError
from mbu_jax.packing import PackedConv, PackedStem, word_count


def words_checked(x: Any, name: str) -> tuple[int, int, int, int, int]:
    """Check that x is channel-packed.

    Args:
      x: array or `jax.ShapeDtypeStruct`.
      name: of the operation.

    Returns:
      B, H, W, P, N.

    Raises:
      InputError: where it is not uint32 [B, H, W, 1 or 2, N].
    """
    if x.dtype != jnp.uint32 or len(x.shape) != 5 or x.shape[3] not in (1, 2):
        raise InputError(
            f"{name} takes channel-packed words, uint32 [B, H, W, 1 or 2 planes, N], "
            f"not {x.dtype}{list(x.shape)}"
        )
    return x.shape


def conv_shape(x: Any, layer: PackedConv, name: str, *, transposed: bool) -> jax.ShapeDtypeStruct:
    """Check a packed convolution's arguments.

    Args:
      x: input words.
      layer: the layer.
      name: of the operation.
      transposed: whether the operation is the transposed convolution.

    Returns:
      Shape and dtype of the result.

    Raises:
      InputError: where words and layer do not fit each other or the operation, or sums 32 bits.
    """
    *_, planes, words = words_checked(x, name)
    check_sums(layer, name)
    if layer.transposed != transposed:
        raise InputError(f"{name} takes a layer of {'2x2' if transposed else '3x3'} kernels")
    wanted = layer.activation_bits, sum(map(word_count, layer.segments))
    if (planes, words) != wanted:
        raise InputError(
            f"{name} is given {planes} planes of {words} words a pixel; "
            f"its layer takes {wanted[0]} of {wanted[1]}"
        )
    return conv_words(x, layer)


def conv_words(x: Any, layer: PackedConv) -> jax.ShapeDtypeStruct:
    """Shape of a packed convolution's result, where the arguments were checked.

    Args:
      x: input words.
      layer: the layer.

    Returns:
      Shape and dtype.
    """
    batch, height, width, planes, _ = x.shape
    scale = 2 if layer.transposed else 1
    shape = (batch, scale * height, scale * width, planes, word_count(layer.out_channels))
    return jax.ShapeDtypeStruct(shape, jnp.uint32)


def check_sums(layer: PackedConv, name: str) -> None:
    """Check that engines can count in 32 bits, twice an output's agreements among it.

    Args:
      layer: the layer.
      name: of the operation.

    Raises:
      InputError: where its channels are too many.
    """
    taps = 1 if layer.transposed else 9
    largest = 4 if layer.precision == "pow2" else 1
    most = (2**30 - 1) // ((2**layer.activation_bits - 1) * largest * taps)
    if layer.in_channels > most:
        raise InputError(
            f"{name} of {layer.in_channels} channels lets sums overflow 32 bits; "
            f"at most {most} channels of these weights and activations can be summed"
        )


def checked_levels(levels: Any, layer: PackedStem, name: str) -> tuple[int, int, int, int]:
    """Check that levels are images that a stem takes.

    Args:
      levels: array or `jax.ShapeDtypeStruct`.
      layer: the stem.
      name: of the operation.

    Returns:
      B, H, W, C.

    Raises:
      InputError: where they are not uint8 [B, H, W, C].
    """
    if levels.dtype != jnp.uint8 or levels.ndim != 4 or levels.shape[3] != layer.in_channels:
        raise InputError(
            f"{name} takes images, uint8 [B, H, W, {layer.in_channels}], "
            f"not {levels.dtype}{list(levels.shape)}"
        )
    return levels.shape
