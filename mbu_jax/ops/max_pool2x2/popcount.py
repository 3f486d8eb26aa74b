"""Packed max-pool by a Triton kernel."""

import jax
import jax.numpy as jnp
from jax import Array

from mbu_jax.ops.batches import split_over_batch
from mbu_jax.ops.gpu.calls import call


def max_pool2x2_popcount(x: Array, layer: None = None) -> Array:
    """Larger code of every channel, 32 at a time.

    Args:
      x: [B, H, W, P, N] uint32.
      layer: None; a pool has no parameters.

    Returns:
      [B, H/2, W/2, P, N] uint32.
    """
    from triton_kernels import max_pool2x2

    def run(x: Array) -> Array:
        batch, height, width, planes, words = x.shape
        launch = max_pool2x2.launch(x.shape)
        shape = (batch, height // 2, width // 2, planes, words)
        return call(launch, jax.ShapeDtypeStruct(shape, jnp.uint32), x)

    return split_over_batch(run, batched=1)(x)
