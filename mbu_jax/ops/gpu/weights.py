"""Weights of packed convolutions in the order in which the `popcount` kernels read them.

Shape letters: S planes, G groups of 32 output channels, C words of a chunk, T thresholds.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mbu_jax.ops.counting import least_agreements
from mbu_jax.packing import WORD_BITS, PackedConv, word_count

NEVER = np.iinfo(np.int32).max
"""A threshold that no sum reaches."""


def plane_count(layer: PackedConv) -> int:
    """Planes of the weights.

    Args:
      layer: the layer.

    Returns:
      1 in a binary layer, 2 in a masked one, 4 with powers of two.
    """
    return {"binary": 1, "masked": 2, "pow2": 4}[layer.precision]


@functools.partial(jax.jit, static_argnames="chunk")
def arranged_planes(layer: PackedConv, chunk: int) -> Array:
    """Order the planes so that a program reads one stretch of memory from end to end.

    Args:
      layer: the layer.
      chunk: C, which divides N.

    Returns:
      uint32 [G, 3, N/C, 3, S, 32, C], or of a transposed convolution [2, 2, G, N/C, S, 32, C].
    """
    planes = [layer.positive[None]]
    if layer.negative is not None:
        planes.append(layer.negative[None])
    if layer.exponent is not None:
        planes.append(layer.exponent)
    stacked = jnp.concatenate(planes)
    _, height, width, outputs, words = stacked.shape
    border = ((0, 0), (0, 0), (0, 0), (0, -outputs % WORD_BITS), (0, 0))
    stacked = jnp.pad(stacked, border)
    stacked = stacked.reshape(
        -1, height, width, word_count(outputs), WORD_BITS, words // chunk, chunk
    )
    if layer.transposed:
        return stacked.transpose(1, 2, 3, 5, 0, 4, 6)
    return stacked.transpose(3, 1, 5, 2, 0, 4, 6)


@jax.jit
def arranged_least(layer: PackedConv) -> Array:
    """Turn thresholds into numbers of agreements, or of disagreements, negated, in a binary layer.

    Args:
      layer: the layer.

    Returns:
      int32 [T, G, 32], or of a transposed convolution [T, 2, 2, G, 32].
    """
    least = least_agreements(layer)
    if layer.precision == "binary":
        taps = 1 if layer.transposed else 9
        least = least - (2**layer.activation_bits - 1) * taps * layer.in_channels
    outputs = layer.out_channels
    border = ((0, 0), (0, 0), (0, -outputs % WORD_BITS))
    least = jnp.pad(least, border, constant_values=NEVER)
    taps = (2, 2) if layer.transposed else ()
    return least.reshape(-1, *taps, word_count(outputs), WORD_BITS)
