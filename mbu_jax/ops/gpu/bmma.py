"""Both packed convolutions on Tensor Cores that multiply one-bit matrices: the `bmma` engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
from jax import Array

from mbu_jax.ops.batches import split_over_batch
from mbu_jax.ops.gpu import tensor_cores
from mbu_jax.ops.gpu.calls import call
from mbu_jax.ops.gpu.tuning import measured_tiles
from mbu_jax.ops.shapes import conv_words
from mbu_jax.packing import PackedConv, word_count

if TYPE_CHECKING:
    from triton_kernels.bmma_tiles import Form
    from triton_kernels.launch import Launch
    from triton_kernels.wgmma_tiles import Slab


def arrange(x: jax.ShapeDtypeStruct, layer: PackedConv) -> tuple[Array, Array]:
    """Order the weights for the kernel.

    Args:
      x: [B, H, W, P, N] uint32.
      layer: the layer.

    Returns:
      Weights and thresholds, as `mbu_jax.ops.gpu.tensor_cores` has them.
    """
    form = tensor_cores.form_of(layer)
    return tensor_cores.arranged_factors(layer, form), tensor_cores.arranged_least(layer, form)


def conv_bmma(x: Array, layer: PackedConv, weights: tuple[Array, Array]) -> Array:
    """Convolve, compare and pack in one kernel; 3x3 or 2x2 transposed, as the layer.

    Args:
      x: [B, H, W, P, N] uint32.
      layer: shapes of the layer.
      weights: from `arrange`.

    Returns:
      [B, H, W, P, ceil(K/32)] uint32, or twice H and W.
    """
    from triton_kernels.bmma_tiles import Form

    form = tensor_cores.form_of(layer)

    def run(x: Array, *weights: Array) -> Array:
        if isinstance(form, Form):
            launch = _launch_of_warps(x.shape, layer, form)
        else:
            launch = _launch_of_warpgroups(x.shape, layer, form)
        return call(launch, conv_words(x, layer), x, *weights)

    return split_over_batch(run, batched=1)(x, *weights)


def _launch_of_warps(x: tuple[int, ...], layer: PackedConv, form: Form) -> Launch:
    from triton_kernels import bmma_conv3x3, bmma_up_conv2x2
    from triton_kernels.bmma_tiles import best_tile

    batch, height, width, _, _ = x
    groups = word_count(layer.out_channels)
    if layer.transposed:
        kernel = bmma_up_conv2x2
        # Rows of all images follow each other, and every tap has groups of its own.
        tile = best_tile(1, batch * height, width, 4 * groups, measured_tiles("bmma_up_conv2x2"))
    else:
        kernel = bmma_conv3x3
        tile = best_tile(batch, height, width, groups, measured_tiles("bmma_conv3x3"))
    return kernel.launch(
        x,
        factors=tensor_cores.factor_count(layer),
        exponents=tensor_cores.exponent_count(layer),
        groups=groups,
        form=form,
        tile=tile,
    )


def _launch_of_warpgroups(x: tuple[int, ...], layer: PackedConv, slab: Slab) -> Launch:
    from triton_kernels import wgmma_conv3x3, wgmma_up_conv2x2
    from triton_kernels.wgmma_tiles import best_stretch, best_tile

    batch, height, width, _, _ = x
    groups = word_count(layer.out_channels)
    if layer.transposed:
        kernel = wgmma_up_conv2x2
        pixels = batch * height * width
        tile = best_stretch(pixels, 4 * groups, measured_tiles("wgmma_up_conv2x2"))
    else:
        kernel = wgmma_conv3x3
        tile = best_tile(batch, height, width, groups, measured_tiles("wgmma_conv3x3"))
    return kernel.launch(
        x, factors=tensor_cores.factor_count(layer), groups=groups, slab=slab, tile=tile
    )
