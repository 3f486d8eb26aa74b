"""Tiles of one field of view are found whatever they are called, and nothing else is."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from mbu_jax.data.nuclei.fields import find_fields

type Images = list[tuple[str, np.ndarray]]


def tiles(rng: np.random.Generator, rows: int, columns: int, size: tuple[int, int]) -> list:
    """Of one smooth picture, uint8 [H, W, 3]; neighbours share a line but for the noise."""
    height, width = size
    shape = rows * (height - 1) + 1, columns * (width - 1) + 1
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    tint = rng.uniform(0.6, 1, 3)

    def tile(row: int, column: int) -> np.ndarray:
        top, left = row * (height - 1), column * (width - 1)
        part = smooth[top : top + height, left : left + width]
        levels = 120 + 40 * part / smooth.std() + rng.normal(scale=1.5, size=size)
        return np.clip(levels[..., None] * tint, 0, 255).astype(np.uint8)

    return [tile(row, column) for row in range(rows) for column in range(columns)]


def partition(images: Images) -> set[frozenset[str]]:
    found = find_fields(images)
    assert list(found) == [key for key, _ in images]
    groups = {
        name: frozenset(key for key in found if found[key] == name) for name in found.values()
    }
    assert all(name == min(group) for name, group in groups.items())
    return set(groups.values())


@given(st.integers(0, 2**32 - 1))
def test_tiles_come_together_and_whole_images_stay_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(64, 90, 2).tolist()
    names = (f"{n:04x}" for n in rng.permutation(2**16))
    images: Images = []
    expected: set[frozenset[str]] = set()
    for rows, columns in ((2, 2), (1, 3), (2, 1), (1, 1), (1, 1)):
        keys = list(itertools.islice(names, rows * columns))
        images += zip(keys, tiles(rng, rows, columns, (height, width)), strict=True)
        expected.add(frozenset(keys))
    images = [images[i] for i in rng.permutation(len(images))]
    assert partition(images) == expected


def test_only_tiles_of_one_size_are_neighbours() -> None:
    a, b = tiles(np.random.default_rng(), 1, 2, (80, 85))
    assert len(partition([("a", a), ("b", b)])) == 1
    assert len(partition([("a", a), ("b", b[:, :-1])])) == 2


def test_edges_that_say_nothing_join_nothing() -> None:
    """Black edges, as many fluorescence images have them, all look alike."""
    images: Images = []
    for name in "abcd":
        tile = np.random.default_rng().integers(0, 4, (70, 70, 3), np.uint8)
        tile[20:50, 20:50] = 200
        images.append((name, tile))
    assert len(partition(images)) == 4


@pytest.mark.parametrize("size", [1, 2, 63])
def test_short_edges_join_nothing(size: int) -> None:
    a, b = tiles(np.random.default_rng(), 1, 2, (size, 80))
    assert len(partition([("a", a), ("b", b)])) == 2


def test_no_image_is_its_own_neighbour() -> None:
    """Its left edge may well continue its right one."""
    (half,) = tiles(np.random.default_rng(), 1, 1, (80, 70))
    assert partition([("a", np.concatenate([half, half[:, ::-1]], axis=1))]) == {frozenset("a")}
    assert partition([]) == set()
