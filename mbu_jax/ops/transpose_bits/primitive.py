"""The ways between the two layouts as JAX primitives, and their engines."""

from typing import Any

import jax
import jax.numpy as jnp

from mbu_jax.errors import InputError
from mbu_jax.ops.gpu import target
from mbu_jax.ops.operation import Engine, Operation
from mbu_jax.ops.shapes import words_checked
from mbu_jax.ops.transpose_bits.kernel import to_channels_kernel, to_pixels_kernel
from mbu_jax.ops.transpose_bits.xla import to_channels_xla, to_pixels_xla
from mbu_jax.packing import word_count


def _pixels_shape(words: Any, layer: None, *, channels: int) -> jax.ShapeDtypeStruct:
    batch, height, width, planes, given = words_checked(words, "to_pixels")
    if given != word_count(channels):
        raise InputError(
            f"to_pixels is given {given} words a pixel; {channels} channels take "
            f"{word_count(channels)}"
        )
    shape = (batch, planes, channels, height, word_count(width))
    return jax.ShapeDtypeStruct(shape, jnp.uint32)


def _channels_shape(planes: Any, layer: None, *, width: int) -> jax.ShapeDtypeStruct:
    if planes.dtype != jnp.uint32 or len(planes.shape) != 5 or planes.shape[1] not in (1, 2):
        raise InputError(
            "to_channels takes pixel-packed planes, uint32 [B, 1 or 2 planes, C, H, N], "
            f"not {planes.dtype}{list(planes.shape)}"
        )
    batch, bits, channels, height, words = planes.shape
    if words != word_count(width):
        raise InputError(
            f"to_channels is given {words} words a row; {width} pixels take {word_count(width)}"
        )
    return jax.ShapeDtypeStruct((batch, height, width, bits, word_count(channels)), jnp.uint32)


TO_PIXELS = Operation("to_pixels", _pixels_shape)
TO_CHANNELS = Operation("to_channels", _channels_shape)

for _operation, _xla, _kernel in (
    (TO_PIXELS, to_pixels_xla, to_pixels_kernel),
    (TO_CHANNELS, to_channels_xla, to_channels_kernel),
):
    _operation.register(Engine("xla", _xla))
    _operation.register(Engine("bitsliced", _kernel, platforms=("cuda",), absent=target.absent))
