"""Which images are tiles of one field of view, found by the edges where they continue each other.

Three of four images of the 2018 Data Science Bowl are such tiles, two by two or more, under ids
that do not tell. What a network has learned of one tile it knows of the next: same cells, same
stain, same exposure, and nuclei that the cut goes through.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

# Fewer pixels may agree by chance.
_SHORTEST = 64
# Of grey levels along an edge, the standard deviation: dark edges all look alike.
_CONTRAST = 4
_CORRELATION = 0.95


@dataclass(frozen=True)
class Edges:
    """The outermost lines of an image, each with the line inside of it.

    Attributes:
      shape: height and width.
      first: left column and top row, int64 sums over the channels.
      last: right column and bottom row.
      inner: the lines next to the last.
    """

    shape: tuple[int, int]
    first: tuple[np.ndarray, np.ndarray]
    last: tuple[np.ndarray, np.ndarray]
    inner: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, image: np.ndarray) -> "Edges":
        """Takes the edges of an image.

        Args:
          image: uint8 [H, W, 3].

        Returns:
          its edges.
        """
        rows, columns = (np.r_[0, size - 1, max(size - 2, 0)] for size in image.shape[:2])
        ends = (image[:, columns].swapaxes(0, 1), image[rows])
        first, last, inner = zip(*(end.sum(axis=-1, dtype=np.int64) for end in ends), strict=True)
        return cls(image.shape[:2], first, last, inner)


def find_fields(images: Iterable[tuple[str, np.ndarray]]) -> dict[str, str]:
    """Finds the field of view of every image.

    Two tiles of one size are neighbours where the last line of one and the first of the other are
    each other's nearest, correlate, and differ by less than twice what neighbouring lines do.

    Args:
      images: ids and uint8 [H, W, 3], one after another.

    Returns:
      by id, in the order given, the field's name: the smallest id of its tiles.

    Example:
      >>> field = np.random.default_rng(0).integers(0, 256, (80, 160, 3), np.uint8)
      >>> field[:, 80] = field[:, 79]  # neighbouring lines look alike
      >>> find_fields([("b", field[:, 80:]), ("a", field[:, :80]), ("c", field[:, 40:120])])
      {'b': 'a', 'a': 'a', 'c': 'c'}
    """
    edges = {key: Edges.of(image) for key, image in images}
    field = {key: key for key in edges}

    def root(key: str) -> str:
        while field[key] != key:
            key = field[key]
        return key

    for pair in _neighbours(edges):
        low, high = sorted(map(root, pair))
        field[high] = low
    return {key: root(key) for key in field}


def _neighbours(edges: Mapping[str, Edges]) -> Iterator[tuple[str, str]]:
    """The pairs of ids whose images continue each other, to the right and downwards."""
    by_shape: dict[tuple[int, int], list[str]] = defaultdict(list)
    for key in sorted(edges):
        by_shape[edges[key].shape].append(key)
    for shape, keys in by_shape.items():
        for axis in (0, 1):
            if shape[axis] < _SHORTEST:
                continue
            first, last, inner = (
                np.stack([getattr(edges[key], name)[axis] for key in keys])
                for name in ("first", "last", "inner")
            )
            for one, other in _continued(first, last, inner):
                yield keys[one], keys[other]


def _continued(first: np.ndarray, last: np.ndarray, inner: np.ndarray) -> Iterator[tuple[int, int]]:
    """The pairs (one, other) where the last line of one goes on as the first of the other.

    All are int64 [images, pixels]. Sums of integers, so that every machine decides alike.
    """
    pixels = last.shape[1]
    distances = np.stack([np.abs(line - first).sum(axis=1) for line in last])
    np.fill_diagonal(distances, 2**50)  # no image is its own neighbour
    following, leading = distances.argmin(axis=1), distances.argmin(axis=0)
    usual = np.abs(last - inner).sum(axis=1)
    variance = _covariance(last, last)
    for one, other in enumerate(following.tolist()):
        mutual = leading[other] == one != other
        contrasted = variance[one] > (3 * _CONTRAST * pixels) ** 2
        # 0.3 grey levels for lines that hardly differ.
        close = 10 * distances[one, other] < 20 * usual[one] + 9 * pixels
        if mutual and contrasted and close and _correlate(last[one], first[other]):
            yield one, other


def _correlate(a: np.ndarray, b: np.ndarray) -> bool:
    covariance = float(_covariance(a, b))
    variances = float(_covariance(a, a)) * float(_covariance(b, b))
    return covariance > 0 and covariance**2 > _CORRELATION**2 * variances


def _covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Times the square of the number of pixels."""
    return a.shape[-1] * (a * b).sum(axis=-1) - a.sum(axis=-1) * b.sum(axis=-1)
