"""Foreign calls on pixel-packed activations, uint32 [B, P, C, H, ceil(W/32)]."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from mbu_jax.ops.batches import split_over_batch
from mbu_jax.packing import PackedConv, PackedHead, PackedStem, word_count


def stem(levels: Array, layer: PackedStem) -> Array:
    """Convolve images in integers, compare with thresholds, give planes.

    Args:
      levels: [B, H, W, C] uint8.
      layer: weights and thresholds.

    Returns:
      [B, P, K, H, ceil(W/32)] uint32.
    """
    batch, height, width, _ = levels.shape
    shape = (batch, layer.activation_bits, layer.out_channels, height, word_count(width))
    call = functools.partial(_call, "mbu_stem", shape, jnp.uint32)
    return split_over_batch(call, batched=1)(levels, layer.weight, layer.theta)


def conv(x: tuple[Array, Array], layer: PackedConv, *, width: int) -> Array:
    """Convolve planes, compare with thresholds, give planes; 3x3 or 2x2 transposed, as the layer.

    Args:
      x: two segments, [B, P, C, H, ceil(W/32)] uint32; the second may have no channels.
      layer: the layer.
      width: W in pixels.

    Returns:
      [B, P, K, H, ceil(W/32)] uint32, or twice H and W.
    """
    first, second = x
    batch, planes, _, height, _ = first.shape
    scale = 2 if layer.transposed else 1
    shape = (batch, planes, layer.out_channels, scale * height, word_count(scale * width))
    none = jnp.zeros((0,), jnp.uint32)
    call = functools.partial(
        _call, "mbu_conv", shape, jnp.uint32, width=width, transposed=layer.transposed
    )
    return split_over_batch(call, batched=2)(
        first,
        second,
        layer.positive,
        none if layer.negative is None else layer.negative,
        none if layer.exponent is None else layer.exponent,
        layer.theta,
    )


def max_pool2x2(x: Array, layer: None, *, width: int) -> Array:
    """2x2 max-pool with stride 2.

    Args:
      x: [B, P, C, H, ceil(W/32)] uint32, H and W even.
      layer: None; a pool has no parameters.
      width: W in pixels.

    Returns:
      [B, P, C, H/2, ceil(W/64)] uint32.
    """
    batch, planes, channels, height, _ = x.shape
    shape = (batch, planes, channels, height // 2, word_count(width // 2))
    call = functools.partial(_call, "mbu_pool", shape, jnp.uint32, width=width)
    return split_over_batch(call, batched=1)(x)


def head(x: Array, layer: PackedHead, *, width: int) -> Array:
    """Sum the weights of every pixel's activations, exactly.

    Args:
      x: [B, P, C, H, ceil(W/32)] uint32.
      layer: weights and bias.
      width: W in pixels.

    Returns:
      [B, H, W, classes] float32.
    """
    shape = (x.shape[0], x.shape[3], width, layer.classes)
    call = functools.partial(_call, "mbu_head", shape, jnp.float32, width=width)
    return split_over_batch(call, batched=1)(x, layer.weight, layer.bias)


def _call(
    target: str, shape: tuple[int, ...], dtype: DTypeLike, *arrays: Array, **attributes: int | bool
) -> Array:
    # Of a sharded batch this is one device's part.
    whole = jax.ShapeDtypeStruct((arrays[0].shape[0], *shape[1:]), dtype)
    numbers = {
        name: value if isinstance(value, bool) else np.int64(value)
        for name, value in attributes.items()
    }
    return jax.ffi.ffi_call(target, whole)(*arrays, **numbers)
