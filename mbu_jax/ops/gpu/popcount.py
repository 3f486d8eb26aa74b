"""Both packed convolutions by Gluon kernels that count bits: the `popcount` engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
from jax import Array

from mbu_jax.ops.batches import split_over_batch
from mbu_jax.ops.gpu.calls import call
from mbu_jax.ops.gpu.tuning import measured_tiles
from mbu_jax.ops.gpu.weights import arranged_least, arranged_planes, plane_count
from mbu_jax.ops.shapes import conv_words
from mbu_jax.packing import PackedConv, word_count

if TYPE_CHECKING:
    from triton_kernels.tiles import Tile


def arrange(x: jax.ShapeDtypeStruct, layer: PackedConv) -> tuple[Array, Array]:
    """Order the weights for the kernel.

    Args:
      x: [B, H, W, P, N] uint32.
      layer: the layer.

    Returns:
      Weights and thresholds, as `mbu_jax.ops.gpu.weights` has them.
    """
    return arranged_planes(layer, _tile(x, layer).chunk), arranged_least(layer)


def conv_popcount(x: Array, layer: PackedConv, weights: tuple[Array, Array]) -> Array:
    """Convolve, compare and pack in one kernel; 3x3 or 2x2 transposed, as the layer.

    Args:
      x: [B, H, W, P, N] uint32.
      layer: shapes of the layer.
      weights: from `arrange`.

    Returns:
      [B, H, W, P, ceil(K/32)] uint32, or twice H and W.
    """
    from triton_kernels import conv3x3, up_conv2x2

    kernel = up_conv2x2 if layer.transposed else conv3x3
    tile = _tile(x, layer)

    def run(x: Array, *weights: Array) -> Array:
        launch = kernel.launch(
            x.shape,
            weight_planes=plane_count(layer),
            groups=word_count(layer.out_channels),
            tile=tile,
        )
        return call(launch, conv_words(x, layer), x, *weights)

    return split_over_batch(run, batched=1)(x, *weights)


def _tile(x: Array | jax.ShapeDtypeStruct, layer: PackedConv) -> Tile:
    from triton_kernels.tiles import best_tile

    kernel = "up_conv2x2" if layer.transposed else "conv3x3"
    return best_tile(x.shape, plane_count(layer), measured=measured_tiles(kernel))
