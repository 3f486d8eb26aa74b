"""Objects told apart in a mask: a watershed of the distance to the background."""

# ruff: noqa: F722 (shapes are written as strings)

import math

import numpy as np
from jaxtyping import Integer
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from mbu_jax.errors import InputError


def label_instances(
    mask: Integer[np.ndarray, "H W"],
    *,
    min_distance: int = 5,
    smoothing: float = 1.0,
    min_size: int = 0,
) -> Integer[np.ndarray, "H W"]:
    """Number the objects of a mask; objects that touch are cut apart at their waist.

    Every foreground pixel's distance to the background is a landscape whose peaks are the
    objects' middles; water from each peak fills one object.

    Args:
      mask: integer or bool [H, W], 0 being the background. Objects of different classes are
        never joined.
      min_distance: pixels between the middles of two objects at least, where they touch. Larger
        numbers join what is narrow at the waist, smaller ones cut more.
      smoothing: standard deviation in pixels of a Gaussian over the distances, which removes the
        small peaks of a ragged outline; 0 for none.
      min_size: objects of fewer pixels are left out.

    Returns:
      [H, W] labels 1, 2, ... in reading order of their topmost pixel, 0 for the background;
      uint16 up to 65535 objects and uint32 beyond.

    Raises:
      InputError: where a parameter is out of range or the mask is no integer image.

    Example:
      >>> y, x = np.mgrid[:20, :40]
      >>> discs = (np.hypot(y - 10, x - 11) < 9) | (np.hypot(y - 10, x - 27) < 9)
      >>> label_instances(discs)[10, [0, 11, 27]].tolist()
      [0, 1, 2]

    Source: Malpica et al., "Applying watershed algorithms to the segmentation of clustered
    nuclei", 1997.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype.kind not in "biu":
        raise InputError(f"the mask is {mask.dtype} {mask.shape}; give an integer image [H, W]")
    for name, value, least in (
        ("min_distance", min_distance, 1),
        ("smoothing", smoothing, 0),
        ("min_size", min_size, 0),
    ):
        if not least <= value < math.inf:
            raise InputError(f"{name} is {value}; give a finite number of at least {least}")
    labels = np.zeros(mask.shape, np.int32)
    for value in np.unique(mask[mask != 0]):
        found = _label_one_class(mask == value, min_distance, smoothing)
        labels[found > 0] = found[found > 0] + labels.max()
    return _renumbered(labels, min_size)


def _label_one_class(objects: np.ndarray, min_distance: int, smoothing: float) -> np.ndarray:
    # Outside the picture is unknown, not background: an object at the edge keeps its middle there.
    if objects.all():
        return np.ones(objects.shape, np.int32)
    distance = np.asarray(ndimage.distance_transform_edt(objects))
    if smoothing:
        distance = np.where(objects, ndimage.gaussian_filter(distance, smoothing), 0)
    parts, count = ndimage.label(objects)
    peaks = peak_local_max(distance, min_distance, exclude_border=False)
    markers = np.zeros(objects.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    # A part may be left with no peak, by a near and higher one: its highest pixel becomes one.
    numbers = np.arange(1, count + 1)
    bare = numbers[ndimage.maximum(markers, parts, numbers) == 0] if count else numbers
    for index, at in enumerate(ndimage.maximum_position(distance, parts, bare), len(peaks) + 1):
        markers[at] = index
    return watershed(-distance, markers, mask=objects)


def _renumbered(labels: np.ndarray, min_size: int) -> np.ndarray:
    """Labels without gaps in order of first appearance, small objects left out."""
    present, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    keep = (present != 0) & (sizes >= min_size)
    ordered = present[keep][np.argsort(first[keep])]
    dtype = np.uint16 if len(ordered) <= 65535 else np.uint32
    table = np.zeros(int(labels.max(initial=0)) + 1, dtype)
    table[ordered] = np.arange(1, len(ordered) + 1)
    return table[labels]
