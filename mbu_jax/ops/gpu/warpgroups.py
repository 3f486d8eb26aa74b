"""A layer's weights as warpgroups of an sm_90 multiply them, slab after slab.

Shape letters: G groups of 32 output channels, S slabs of K.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array

if TYPE_CHECKING:
    from triton_kernels.wgmma_tiles import Slab


def arranged_slabs(planes: Array, slab: Slab) -> Array:
    """Order planes of weights as shared memory has them.

    Args:
      planes: uint32 [32 G, F, taps, N]; a transposed convolution has one tap and 4 G groups.
      slab: of K.

    Returns:
      uint32 [G, S, steps, 2, 32, 4]: steps along K, pieces of a step, channels, words of a piece.
    """
    channels, factors, taps, words = planes.shape
    slabs = slab.count(words)
    planes = jnp.pad(planes, ((0, 0),) * 3 + ((0, slabs * slab.words - words),))
    planes = planes.reshape(channels, factors, taps, slabs, -1, min(4, slab.words))
    if slab.words < 4:  # words and complements share a piece
        pieces = planes.transpose(0, 3, 4, 2, 1, 5)
    else:
        pieces = planes.transpose(0, 3, 1, 4, 2, 5)
    pieces = pieces.reshape(channels, slabs, taps * slab.pieces, 4)
    if odd := taps * slab.pieces % 2:  # the last but one is taken again, with no weights
        last = taps * slab.pieces - 1
        nothing = jnp.zeros((channels, slabs, odd, 4), pieces.dtype)
        pieces = jnp.concatenate([pieces[:, :, :last], nothing, pieces[:, :, last:]], axis=2)
    pieces = pieces.reshape(-1, 32, slabs, slab.steps, 2, 4)
    return pieces.transpose(0, 2, 3, 4, 1, 5)
