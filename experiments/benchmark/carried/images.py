"""Images of a batch: one picture, moved round by different distances."""

import hashlib

import numpy as np
from numpy.typing import NDArray

DISTINCT = 8
"""Images of a batch that differ; those after them repeat them."""

_DOWN, _RIGHT = 61, 37  # pixels from one image to the next


def batch_of(picture: NDArray, count: int) -> NDArray:
    """Make a batch.

    Args:
      picture: uint8 [H, W, C].
      count: B.

    Returns:
      uint8 [B, H, W, C], image i the picture moved round i % 8 times.

    Example:
      >>> batch_of(np.zeros((2, 2, 3), np.uint8), 3).shape
      (3, 2, 2, 3)
    """
    moved = [
        np.roll(picture, (i * _DOWN, i * _RIGHT), axis=(0, 1)) for i in range(min(count, DISTINCT))
    ]
    return np.stack([moved[i % DISTINCT] for i in range(count)])


def digest(logits: NDArray) -> str:
    """Sum up logits so that any other bit shows.

    Args:
      logits: of one image, [H, W, classes] float32.

    Returns:
      Their SHA-256.
    """
    return hashlib.sha256(np.ascontiguousarray(logits, "<f4").tobytes()).hexdigest()
