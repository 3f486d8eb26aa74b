"""Packed 3x3 convolution by a Gluon kernel that counts bits."""

import jax
import jax.numpy as jnp
from jax import Array

from mbu_jax.ops.batches import split_over_batch
from mbu_jax.ops.gpu.calls import call
from mbu_jax.ops.gpu.tuning import measured_tiles
from mbu_jax.ops.gpu.weights import arranged_least, arranged_planes, plane_count
from mbu_jax.packing import PackedConv, word_count


def arrange(x: jax.ShapeDtypeStruct, layer: PackedConv) -> tuple[Array, Array]:
    """Order the weights for the kernel.

    Args:
      x: [B, H, W, P, N] uint32.
      layer: the layer.

    Returns:
      Weights and thresholds, as `mbu_jax.ops.gpu.weights` has them.
    """
    from triton_kernels.tiles import best_tile

    tile = best_tile(x.shape, plane_count(layer), measured=measured_tiles("conv3x3"))
    return arranged_planes(layer, tile.chunk), arranged_least(layer)


def conv3x3_popcount(x: Array, layer: PackedConv, weights: tuple[Array, Array]) -> Array:
    """Convolve, compare and pack in one kernel.

    Args:
      x: [B, H, W, P, N] uint32.
      layer: shapes of the layer.
      weights: from `arrange`.

    Returns:
      [B, H, W, P, ceil(K/32)] uint32.
    """
    from triton_kernels import conv3x3
    from triton_kernels.tiles import best_tile

    weight_planes = plane_count(layer)
    groups = word_count(layer.out_channels)
    tile = best_tile(x.shape, weight_planes, measured=measured_tiles("conv3x3"))

    def run(x: Array, *weights: Array) -> Array:
        launch = conv3x3.launch(x.shape, weight_planes=weight_planes, groups=groups, tile=tile)
        batch, height, width, planes, _ = x.shape
        shape = (batch, height, width, planes, groups)
        return call(launch, jax.ShapeDtypeStruct(shape, jnp.uint32), x, *weights)

    return split_over_batch(run, batched=1)(x, *weights)
