"""Packed 3x3 convolution on Tensor Cores that multiply one-bit matrices."""

import jax
import jax.numpy as jnp
from jax import Array

from mbu_jax.ops.batches import split_over_batch
from mbu_jax.ops.gpu import tensor_cores
from mbu_jax.ops.gpu.calls import call
from mbu_jax.ops.gpu.tuning import measured_tiles
from mbu_jax.packing import PackedConv, word_count


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


def conv3x3_bmma(x: Array, layer: PackedConv, weights: tuple[Array, Array]) -> Array:
    """Convolve, compare and pack in one kernel.

    Args:
      x: [B, H, W, P, N] uint32.
      layer: shapes of the layer.
      weights: from `arrange`.

    Returns:
      [B, H, W, P, ceil(K/32)] uint32.
    """
    from triton_kernels import bmma_conv3x3, bmma_tiles, wgmma_conv3x3, wgmma_tiles

    form = tensor_cores.form_of(layer)
    factors = tensor_cores.factor_count(layer)
    exponents = tensor_cores.exponent_count(layer)
    groups = word_count(layer.out_channels)

    def run(x: Array, *weights: Array) -> Array:
        batch, height, width, planes, _ = x.shape
        if isinstance(form, bmma_tiles.Form):
            launch = bmma_conv3x3.launch(
                x.shape,
                factors=factors,
                exponents=exponents,
                groups=groups,
                form=form,
                tile=bmma_tiles.best_tile(
                    batch, height, width, groups, measured=measured_tiles("bmma_conv3x3")
                ),
            )
        else:
            launch = wgmma_conv3x3.launch(
                x.shape,
                factors=factors,
                groups=groups,
                slab=form,
                tile=wgmma_tiles.best_tile(
                    batch, height, width, groups, measured=measured_tiles("wgmma_conv3x3")
                ),
            )
        shape = (batch, height, width, planes, groups)
        return call(launch, jax.ShapeDtypeStruct(shape, jnp.uint32), x, *weights)

    return split_over_batch(run, batched=1)(x, *weights)
