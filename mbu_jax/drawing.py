"""Masks as colours: the palette of every picture here, and masks drawn over their image."""

# ruff: noqa: F722 (shapes are written as strings)

import numpy as np
from jaxtyping import Integer, UInt8

# From the palette of Okabe and Ito, told apart under every common colour blindness.
CLASS_COLOURS = np.array(
    [
        (0, 0, 0),
        (255, 255, 255),
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
    ],
    np.uint8,
)
"""uint8 [9, 3]: black for the background, white for class 1, a hue for each further one."""

_FIRST_CLASS = np.array((0, 158, 115), np.uint8)  # white would not show on a bright image
_TINT = 0.3


def class_colours(mask: Integer[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Colour every class; past the palette's end its colours (not black) come round again.

    Args:
      mask: integer [H, W] class indices.

    Returns:
      uint8 [H, W, 3].

    Example:
      >>> class_colours(np.array([[0, 1, 9]]))[0].tolist()
      [[0, 0, 0], [255, 255, 255], [255, 255, 255]]
    """
    return CLASS_COLOURS[_cycled(mask)]


def draw_overlay(
    image: UInt8[np.ndarray, "H W 3"],
    mask: Integer[np.ndarray, "H W"],
    instances: Integer[np.ndarray, "H W"] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Tint an image where objects are, and outline them.

    Args:
      image: uint8 [H, W, 3].
      mask: integer [H, W] class indices, 0 being the background.
      instances: integer [H, W] labels of objects; objects that touch get an outline between them.

    Returns:
      uint8 [H, W, 3], the background as it was; class 1 is green, the others as `class_colours`.

    Example:
      >>> mask = np.zeros((5, 5), np.uint8)
      >>> mask[1:4, 1:4] = 1
      >>> drawn = draw_overlay(np.full((5, 5, 3), 100, np.uint8), mask)
      >>> drawn[0, 0].tolist(), drawn[1, 1].tolist(), drawn[2, 2].tolist()
      ([100, 100, 100], [0, 158, 115], [70, 117, 104])
    """
    index = _cycled(mask)
    colours = CLASS_COLOURS.copy()
    colours[1] = _FIRST_CLASS
    colour = colours[index]
    drawn = image.copy()
    inside = index > 0
    tinted = (1 - _TINT) * image[inside].astype(np.float32) + _TINT * colour[inside]
    drawn[inside] = np.round(tinted)
    outline = _outlines(mask if instances is None else instances, _line_width(image)) & inside
    drawn[outline] = colour[outline]
    return drawn


def _cycled(mask: np.ndarray) -> np.ndarray:
    index = mask.astype(np.int64)
    return np.where(index == 0, 0, (index - 1) % (len(CLASS_COLOURS) - 1) + 1)


def _line_width(image: np.ndarray) -> int:
    """Wide enough to be seen where a viewer shrinks a large image."""
    return max(1, round(max(image.shape[:2]) / 800))


def _outlines(labels: np.ndarray, width: int) -> np.ndarray:
    """Pixels of an object from which another label is at most ``width`` steps away."""
    edge = np.zeros(labels.shape, bool)
    for step in range(1, width + 1):
        for axis in (0, 1):
            ahead = np.roll(labels, -step, axis) != labels
            # What rolls round from the other end is no neighbour.
            np.moveaxis(ahead, axis, 0)[-step:] = False
            edge |= ahead
            edge |= np.roll(ahead, step, axis)
    return edge & (labels != 0)
