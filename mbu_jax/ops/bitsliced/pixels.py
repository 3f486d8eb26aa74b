"""The packed network's operations on pixel-packed activations, as JAX primitives.

Activations are uint32 [B, P, C, H, ceil(W/32)], so the width W goes along as an option.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mbu_jax.errors import InputError
from mbu_jax.ops.bitsliced import calls, library
from mbu_jax.ops.conv3x3 import conv3x3
from mbu_jax.ops.gpu import bitsliced as gpu
from mbu_jax.ops.gpu import target
from mbu_jax.ops.head import head
from mbu_jax.ops.max_pool2x2 import max_pool2x2
from mbu_jax.ops.operation import Engine, Operation
from mbu_jax.ops.shapes import check_sums, checked_levels
from mbu_jax.ops.stem import stem
from mbu_jax.ops.up_conv2x2 import up_conv2x2
from mbu_jax.packing import (
    PackedConv,
    PackedHead,
    PackedStem,
    channels_to_pixels,
    pixels_to_channels,
    word_count,
)


def _check(x: Any, name: str, width: int, planes: int | None = None) -> tuple[int, ...]:
    wanted = "1 or 2" if planes is None else str(planes)
    if (
        x.dtype != jnp.uint32
        or len(x.shape) != 5
        or x.shape[1] not in ((1, 2) if planes is None else (planes,))
        or x.shape[4] != word_count(width)
    ):
        raise InputError(
            f"{name} takes pixel-packed planes, uint32 [B, {wanted} planes, C, H, "
            f"{word_count(width)} words], not {x.dtype}{list(x.shape)}"
        )
    return x.shape


def _conv_shape(x: Any, layer: PackedConv, *, width: int) -> jax.ShapeDtypeStruct:
    shapes = [_check(part, "pixel_conv", width, layer.activation_bits) for part in x]
    channels = tuple(shape[2] for shape in shapes)
    if channels != (*layer.segments, 0)[:2]:
        raise InputError(
            f"pixel_conv is given {channels} channels; its layer takes {layer.segments}"
        )
    check_sums(layer, "pixel_conv")
    batch, planes, _, height, _ = shapes[0]
    scale = 2 if layer.transposed else 1
    shape = (batch, planes, layer.out_channels, scale * height, word_count(scale * width))
    return jax.ShapeDtypeStruct(shape, jnp.uint32)


def _stem_shape(levels: Any, layer: PackedStem) -> jax.ShapeDtypeStruct:
    batch, height, width, _ = checked_levels(levels, layer, "pixel_stem")
    shape = (batch, layer.activation_bits, layer.out_channels, height, word_count(width))
    return jax.ShapeDtypeStruct(shape, jnp.uint32)


def _pool_shape(x: Any, layer: None, *, width: int) -> jax.ShapeDtypeStruct:
    batch, planes, channels, height, _ = _check(x, "pixel_max_pool2x2", width)
    if height % 2 or width % 2:
        raise InputError(f"pixel_max_pool2x2 takes an even height and width, not {height}x{width}")
    shape = (batch, planes, channels, height // 2, word_count(width // 2))
    return jax.ShapeDtypeStruct(shape, jnp.uint32)


def _head_shape(x: Any, layer: PackedHead, *, width: int) -> jax.ShapeDtypeStruct:
    batch, _, channels, height, _ = _check(x, "pixel_head", width)
    if channels != layer.in_channels:
        raise InputError(
            f"pixel_head is given {channels} channels; its layer takes {layer.in_channels}"
        )
    return jax.ShapeDtypeStruct((batch, height, width, layer.classes), jnp.float32)


def _stem_of_words(levels: Array, layer: PackedStem) -> Array:
    return channels_to_pixels(stem(levels, layer, implementation="xla"), layer.out_channels)


def _conv_of_words(x: tuple[Array, Array], layer: PackedConv, *, width: int) -> Array:
    words = [pixels_to_channels(part, width) for part in x if part.shape[2]]
    operation = up_conv2x2 if layer.transposed else conv3x3
    y = operation(jnp.concatenate(words, axis=-1), layer, implementation="xla")
    return channels_to_pixels(y, layer.out_channels)


def _pool_of_words(x: Array, layer: None, *, width: int) -> Array:
    y = max_pool2x2(pixels_to_channels(x, width), implementation="xla")
    return channels_to_pixels(y, x.shape[2])


def _head_of_words(x: Array, layer: PackedHead, *, width: int) -> Array:
    return head(pixels_to_channels(x, width), layer, implementation="xla")


STEM = Operation("pixel_stem", _stem_shape)
CONV = Operation("pixel_conv", _conv_shape)
MAX_POOL2X2 = Operation("pixel_max_pool2x2", _pool_shape)
HEAD = Operation("pixel_head", _head_shape)

# A program for several platforms holds these operations on all of them, whichever it runs on.
for _operation, _of_words, _call, _kernel, _arrange in (
    (STEM, _stem_of_words, calls.stem, gpu.stem, gpu.arrange_stem),
    (CONV, _conv_of_words, calls.conv, gpu.conv, gpu.arrange_conv),
    (MAX_POOL2X2, _pool_of_words, calls.max_pool2x2, gpu.max_pool2x2, None),
    (HEAD, _head_of_words, calls.head, gpu.head, gpu.arrange_head),
):
    _operation.register(Engine("xla", _of_words))
    _operation.register(Engine("bitsliced", _call, platforms=("cpu",), absent=library.absent))
    _operation.register(
        Engine(
            "bitsliced",
            _kernel,
            platforms=("cuda",),
            absent=target.absent,
            automatic=False,
            arrange=_arrange,
        )
    )
