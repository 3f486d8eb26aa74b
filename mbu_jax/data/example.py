"""One image with its truth, as every dataset gives it."""

from typing import NotRequired, TypedDict

import numpy as np


class Example(TypedDict):
    """One image with its truth.

    Attributes:
      id: its name, unique in the dataset.
      image: uint8 [H, W, 3].
      mask: uint8 [H, W], 0 background, 1 object; of several classes their numbers.
      instances: uint16 [H, W], 0 background, 1 to n the objects, where the dataset tells them
        apart.
    """

    id: str
    image: np.ndarray
    mask: np.ndarray
    instances: NotRequired[np.ndarray]
