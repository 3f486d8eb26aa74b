"""The packed network's operations on pixel-packed activations, as JAX primitives.

Activations are uint32 [B, P, C, H, ceil(W/32)], so the width W goes along as an option.
"""

from typing import Any

import jax
import jax.numpy as jnp

from mbu_jax.errors import InputError
from mbu_jax.ops.bitsliced import calls, library
from mbu_jax.ops.operation import Engine, Operation
from mbu_jax.packing import PackedConv, PackedHead, word_count


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
    batch, planes, _, height, _ = shapes[0]
    scale = 2 if layer.transposed else 1
    shape = (batch, planes, layer.out_channels, scale * height, word_count(scale * width))
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


CONV = Operation("pixel_conv", _conv_shape)
MAX_POOL2X2 = Operation("pixel_max_pool2x2", _pool_shape)
HEAD = Operation("pixel_head", _head_shape)

for _operation, _run in (
    (CONV, calls.conv),
    (MAX_POOL2X2, calls.max_pool2x2),
    (HEAD, calls.head),
):
    _operation.register(Engine("bitsliced", _run, platforms=("cpu",), absent=library.absent))
