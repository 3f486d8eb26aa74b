"""The convolution on the image by a Gluon kernel."""

import jax
import jax.numpy as jnp
from jax import Array

from mbu_jax.ops.batches import split_over_batch
from mbu_jax.ops.gpu.calls import call
from mbu_jax.ops.gpu.weights import NEVER
from mbu_jax.packing import WORD_BITS, PackedStem, word_count


def arrange(levels: jax.ShapeDtypeStruct, layer: PackedStem) -> tuple[Array, Array]:
    """Order the weights for the kernel.

    Args:
      levels: [B, H, W, C] uint8.
      layer: weights and thresholds.

    Returns:
      Of G groups of 32 outputs float32 [G, 3, 3, C, 32] and int32 [T, 32 G].
    """
    groups, missing = word_count(layer.out_channels), -layer.out_channels % WORD_BITS
    weight = jnp.pad(layer.weight.astype(jnp.float32), (*3 * ((0, 0),), (0, missing)))
    weight = weight.reshape(3, 3, -1, groups, WORD_BITS).transpose(3, 0, 1, 2, 4)
    return weight, jnp.pad(layer.theta, ((0, 0), (0, missing)), constant_values=NEVER)


def stem_popcount(levels: Array, layer: PackedStem, weights: tuple[Array, Array]) -> Array:
    """Convolve, compare and pack in one kernel.

    Args:
      levels: [B, H, W, C] uint8.
      layer: shapes of weights and thresholds.
      weights: from `arrange`.

    Returns:
      [B, H, W, P, ceil(K/32)] uint32.
    """
    from triton_kernels import stem

    planes, groups = layer.activation_bits, word_count(layer.out_channels)

    def run(levels: Array, weight: Array, theta: Array) -> Array:
        launch = stem.launch(levels.shape, planes=planes, groups=groups)
        shape = (*levels.shape[:3], planes, groups)
        return call(launch, jax.ShapeDtypeStruct(shape, jnp.uint32), levels, weight, theta)

    return split_over_batch(run, batched=1)(levels, *weights)
