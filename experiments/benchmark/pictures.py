"""Images to segment: synthetic nuclei of any size."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mbu_jax.data.synthetic.generator import generate_example

_GENERATED = 512  # pixels a side; larger images are such ones and their mirror images


def nuclei(count: int, size: int, channels: int, split: str = "validation") -> NDArray:
    """Generate images as a microscope might give them.

    Args:
      count: of images.
      size: height and width.
      channels: 1 or 3.
      split: ``train`` or ``validation``, which share no image.

    Returns:
      uint8 [count, size, size, channels].
    """
    side = min(size, _GENERATED)
    beyond = size - side
    images = []
    for index in range(count):
        image = generate_example(split, index, image_size=(side, side))["image"]
        image = np.pad(image, ((0, beyond), (0, beyond), (0, 0)), mode="symmetric")
        if channels == 1:
            image = np.asarray(Image.fromarray(image).convert("L"))[..., None]
        images.append(image)
    return np.stack(images)
