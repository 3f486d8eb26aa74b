"""The two layouts by a Gluon kernel that transposes squares of 32x32 bits."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from mbu_jax.errors import InputError
from mbu_jax.ops.batches import split_over_batch
from mbu_jax.ops.gpu.calls import call
from mbu_jax.packing import word_count


def to_pixels_kernel(words: Array, layer: None = None, *, channels: int) -> Array:
    """Transpose 32 words of channels a thread.

    Args:
      words: [B, H, W, P, N] uint32.
      layer: None; a layout has no parameters.
      channels: C.

    Returns:
      [B, P, C, H, ceil(W/32)] uint32.

    Raises:
      InputError: where an image has more words than 32-bit offsets reach.
    """
    from triton_kernels import transpose_bits

    _, height, width, planes, _ = words.shape
    shape = (planes, channels, height, word_count(width))
    _check_offsets(words.shape[1:], shape)

    def run(words: Array) -> Array:
        launch = transpose_bits.launch_to_pixels(words.shape, channels=channels)
        return call(launch, jax.ShapeDtypeStruct((len(words), *shape), jnp.uint32), words)

    return split_over_batch(run, batched=1)(words)


def to_channels_kernel(planes: Array, layer: None = None, *, width: int) -> Array:
    """Transpose 32 words of pixels a thread.

    Args:
      planes: [B, P, C, H, N] uint32.
      layer: None; a layout has no parameters.
      width: W in pixels.

    Returns:
      [B, H, W, P, ceil(C/32)] uint32.

    Raises:
      InputError: where an image has more words than 32-bit offsets reach.
    """
    from triton_kernels import transpose_bits

    _, bits, channels, height, _ = planes.shape
    shape = (height, width, bits, word_count(channels))
    _check_offsets(planes.shape[1:], shape)

    def run(planes: Array) -> Array:
        launch = transpose_bits.launch_to_channels(planes.shape, width=width)
        return call(launch, jax.ShapeDtypeStruct((len(planes), *shape), jnp.uint32), planes)

    return split_over_batch(run, batched=1)(planes)


def _check_offsets(*shapes: tuple[int, ...]) -> None:
    # A block that reaches over an image's edge has offsets beyond it.
    if max(map(math.prod, shapes)) >= 2**31 - 2**20:
        raise InputError(
            f"an image of {max(map(math.prod, shapes))} words is too large for the kernel that "
            "changes its layout; segment smaller tiles"
        )
