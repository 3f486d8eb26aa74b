"""Logits of packed activations by a Triton kernel."""

import jax
import jax.numpy as jnp
from jax import Array

from mbu_jax.ops.batches import split_over_batch
from mbu_jax.ops.gpu.calls import call
from mbu_jax.packing import WORD_BITS, PackedHead


def arrange(x: jax.ShapeDtypeStruct, layer: PackedHead) -> tuple[Array, Array]:
    """Order the weights for the kernel.

    Args:
      x: activations.
      layer: weights and bias.

    Returns:
      float32 [classes, 32 N] and [classes].
    """
    missing = -layer.in_channels % WORD_BITS
    return jnp.pad(layer.weight, ((0, missing), (0, 0))).T, layer.bias


def head_popcount(x: Array, layer: PackedHead, weights: tuple[Array, Array]) -> Array:
    """Add or subtract one weight after the other, a bit choosing which.

    Args:
      x: [B, H, W, P, N] uint32.
      layer: shapes of weights and bias.
      weights: from `arrange`; their sums are exact in any order.

    Returns:
      [B, H, W, classes] float32.
    """
    from triton_kernels import head

    def run(x: Array, weight: Array, bias: Array) -> Array:
        launch = head.launch(x.shape, classes=layer.classes)
        shape = (*x.shape[:3], layer.classes)
        return call(launch, jax.ShapeDtypeStruct(shape, jnp.float32), x, weight, bias)

    return split_over_batch(run, batched=1)(x, *weights)
