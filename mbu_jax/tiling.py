"""Where tiles lie on a large image, and how the logits of overlapping tiles become one picture.

A tile's edge is an image's edge to the network, so answers near a seam are not those of the whole
image. `seam_reach` says how near. Tiles that overlap by twice that cover every pixel with one that
sees all it needs, and the picture is the whole image's own.
"""

import functools
import itertools
import math

import numpy as np
from numpy.typing import NDArray

from mbu_jax.architecture import SIZE_MULTIPLE, unet_layers


@functools.cache
def seam_reach() -> int:
    """How many pixels from a tile's edge the network's answer depends on what lies beyond it.

    Follows the longest path backwards, from a pixel to the first column of the image that it
    depends on. Tiles start at multiples of ``SIZE_MULTIPLE``, so that pooling divides tile and
    image alike; left and right, top and bottom mirror each other.

    Returns:
      The reach in pixels: of an inner tile edge, this many columns depend on the other side.

    Example:
      >>> seam_reach()
      94
    """
    return next(x for x in itertools.count() if _first_column_seen(x) >= 0)


def _first_column_seen(x: int) -> int:
    scale = 1
    convs = [conv for layer in unet_layers() for conv in layer.convs]
    for conv in reversed(convs):
        if conv.transposed:
            x, scale = x // conv.kernel, conv.scale * conv.kernel
        else:
            x = x * (scale // conv.scale) - conv.kernel // 2  # pooling undone, then the kernel
            scale = conv.scale
    return x


def exact_overlap() -> int:
    """The smallest overlap at which tiling changes nothing.

    Returns:
      Twice `seam_reach`, rounded up to ``SIZE_MULTIPLE``, in pixels.

    Example:
      >>> exact_overlap()
      192
    """
    return math.ceil(2 * seam_reach() / SIZE_MULTIPLE) * SIZE_MULTIPLE


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Place tiles along one axis, the last one flush with the end.

    Args:
      length: of the axis in pixels, a multiple of ``SIZE_MULTIPLE``.
      tile: side of a tile, a multiple of ``SIZE_MULTIPLE``; a shorter axis takes one short tile.
      overlap: pixels that neighbours share at least, a multiple of ``SIZE_MULTIPLE`` below
        ``tile``.

    Returns:
      First pixel of each tile, a multiple of ``SIZE_MULTIPLE``.

    Example:
      >>> tile_starts(112, tile=64, overlap=32)
      [0, 32, 48]
    """
    last = max(0, length - tile)
    return [*range(0, last, tile - overlap), last]


def blend_weights(tile: int, overlap: int, *, before: bool, after: bool) -> NDArray[np.float32]:
    """Weigh the pixels of a tile along one axis, falling as a cosine towards its seams.

    Where the overlap allows it, the pixels that the seam reaches weigh nothing, and the weight
    falls over what is left of the overlap; with less overlap it falls over all of it.

    Args:
      tile: side of the tile in pixels.
      overlap: pixels that neighbours share at least.
      before: whether there is a seam at the start, that is no image edge.
      after: whether there is a seam at the end.

    Returns:
      float32 [tile], weights in [0, 1], 1 away from seams and at image edges.

    Example:
      >>> blend_weights(6, 2, before=True, after=False).round(2)
      array([0.15, 0.85, 1.  , 1.  , 1.  , 1.  ], dtype=float32)
    """
    reach = seam_reach()
    hidden = reach if overlap >= 2 * reach else 0
    steps = overlap - 2 * hidden
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(steps) + 0.5) / max(steps, 1))
    rise = np.concatenate([np.zeros(hidden), ramp]).astype(np.float32)
    weights = np.ones(tile, np.float32)
    if before:
        weights[: rise.size] = np.minimum(weights[: rise.size], rise)
    if after:
        weights[tile - rise.size :] = np.minimum(weights[tile - rise.size :], rise[::-1])
    return weights
