"""Tiles to be timed beside those that rules of thumb choose."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, override

from triton_kernels import bitsliced_tiles, bmma_tiles, tiles, wgmma_tiles
from triton_kernels.tuned import fits, sizes_of

type Fields = Mapping[str, int]


class Lookups:
    """Stands for a device's measured tiles: gives one at most, and notes what is asked for.

    Args:
      given: the kernel, the shape and the tile, or None to leave all to rules of thumb.

    Attributes:
      asked: kernels and shapes that tiles were looked up for.
    """

    def __init__(self, given: tuple[str, str, Fields] | None = None) -> None:
        self._given = given
        self.asked: set[tuple[str, str]] = set()

    def __call__(self, kernel: str) -> Mapping[str, Fields]:
        """Stand for a kernel's tiles.

        Args:
          kernel: its name.

        Returns:
          Tiles by shape.
        """
        return _Noting(self, kernel)

    def find(self, kernel: str, shape: str) -> Fields:
        """Look a tile up.

        Args:
          kernel: its name.
          shape: its key.

        Returns:
          The tile that was given.

        Raises:
          KeyError: where none was given for them.
        """
        self.asked.add((kernel, shape))
        if self._given is None or self._given[:2] != (kernel, shape):
            raise KeyError(shape)
        return self._given[2]


class _Noting(Mapping[str, Fields]):
    def __init__(self, lookups: Lookups, kernel: str) -> None:
        self._lookups, self._kernel = lookups, kernel

    @override
    def __getitem__(self, shape: str) -> Fields:
        return self._lookups.find(self._kernel, shape)

    @override
    def __iter__(self) -> Iterator[str]:
        raise TypeError("shapes are looked up, not listed")

    @override
    def __len__(self) -> int:
        return 1  # what is empty is not asked


def candidates(kernel: str, shape: str) -> list[dict[str, int]]:
    """List a tile, and those of which one field is twice or half as large.

    Args:
      kernel: its name in `triton_kernels.tuned`.
      shape: its key.

    Returns:
      Fields of tiles that the kernel takes, those by rules of thumb first.

    Example:
      >>> candidates("wgmma_up_conv2x2", "pixels=64 groups=2")  # doctest: +NORMALIZE_WHITESPACE
      [{'columns': 8, 'warpgroups': 1, 'groups': 2, 'registers': 128},
       {'columns': 8, 'warpgroups': 2, 'groups': 2, 'registers': 128},
       {'columns': 8, 'warpgroups': 1, 'groups': 1, 'registers': 128}]
    """
    first = _by_rules(kernel, sizes_of(shape))
    near = [
        {**first, field: value}
        for field in first
        if field != "registers"
        for value in (2 * first[field], first[field] // 2)
    ]
    return [first, *(tile for tile in near if fits(kernel, shape, tile))]


def _by_rules(kernel: str, sizes: dict[str, Any]) -> dict[str, int]:
    tile: Any
    match kernel:
        case "conv3x3" | "up_conv2x2":
            x = (1, *(sizes[name] for name in ("height", "width", "planes", "words")))
            tile = tiles.best_tile(x, sizes["weight_planes"])
        case "bmma_conv3x3" | "bmma_up_conv2x2":
            tile = bmma_tiles.best_tile(**sizes)
        case "wgmma_conv3x3":
            tile = wgmma_tiles.best_tile(**sizes)
        case "wgmma_up_conv2x2":
            tile = wgmma_tiles.best_stretch(**sizes)
        case _:
            tile = bitsliced_tiles.best_tile(**sizes)
    return dataclasses.asdict(tile)
