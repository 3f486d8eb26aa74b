"""Lists of non-zero weights by a Triton kernel."""

import jax
import jax.numpy as jnp
from jax import Array

from mbu_jax.ops.batches import split_over_batch
from mbu_jax.ops.gpu.calls import call
from mbu_jax.packing import WORD_BITS


def bitsliced_lists_kernel(
    weights: Array, planes: Array, *, channel_step: int, zeros: int
) -> Array:
    """Fill every list from its start with what is chosen, from its end with zeros.

    Args:
      weights: [M, L, S] uint32.
      planes: [S] int32.
      channel_step: words between the planes of two bits.
      zeros: words to a plane whose bits are all 0.

    Returns:
      [M, L, 32 S] int32.
    """
    from triton_kernels import bitsliced_lists

    def run(weights: Array, planes: Array) -> Array:
        outputs, lists, words = weights.shape
        launch = bitsliced_lists.launch(weights.shape, channel_step=channel_step, zeros=zeros)
        result = jax.ShapeDtypeStruct((outputs, lists, WORD_BITS * words), jnp.int32)
        return call(launch, result, weights, planes)

    return split_over_batch(run, batched=1)(weights, planes)
