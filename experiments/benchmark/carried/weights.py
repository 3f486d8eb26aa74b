"""Weights of the full-precision network: read, or drawn anew where they are random.

Random weights would be the largest file by far; their seeds are enough. `numpy.random.RandomState`
gives the same numbers in every version of NumPy.
"""

import hashlib
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def draw(name: str, shape: tuple[int, ...], spread: float) -> NDArray:
    """Draw one tensor.

    Args:
      name: of the tensor, which is its seed.
      shape: of the tensor.
      spread: standard deviation.

    Returns:
      Float32, always the same.
    """
    numbers = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return (numbers * spread).astype(np.float32)


def read(described: dict[str, Any], stored: dict[str, NDArray]) -> dict[str, NDArray]:
    """Put the network's tensors together.

    Args:
      described: by name of a tensor that is drawn: ``seed``, ``shape``, ``spread``, ``sha256``.
      stored: the other tensors.

    Returns:
      All tensors by name: ``LAYER.weight``, [h, w, C, K] float32, and ``LAYER.bias``.

    Raises:
      RuntimeError: where other numbers are drawn than where they were described.
    """
    tensors = dict(stored)
    for name, about in described.items():
        tensor = draw(about["seed"], tuple(about["shape"]), about["spread"])
        if hashlib.sha256(tensor.tobytes()).hexdigest() != about["sha256"]:
            raise RuntimeError(f"this NumPy draws other numbers for {name}; export the weights")
        tensors[name] = tensor
    return tensors
