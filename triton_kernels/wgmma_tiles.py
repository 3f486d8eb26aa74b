"""Which layers warpgroups multiply, and what one program of a convolution computes."""

import dataclasses
from collections.abc import Mapping

from triton_kernels.launch import cdiv
from triton_kernels.tuned import shape_key


@dataclasses.dataclass(frozen=True)
class Slab:
    """A stretch of K that a program has in shared memory at a time.

    Attributes:
      taps: 9 or 1.
      factors: words of weights that a word of activations meets: 1 in a binary layer, else 2.
      words: of a pixel: 4, 8 or 16, or 2 in a masked layer, at least 8 by one tap and one factor.
    """

    taps: int
    factors: int
    words: int

    @property
    def by_and(self) -> bool:
        """Whether bits are multiplied by AND; `wgmma` has no other product."""
        return True

    @property
    def pieces(self) -> int:
        """Of four words of a pixel, complements among them."""
        return self.factors * self.words // 4

    @property
    def steps(self) -> int:
        """Instructions along K, of two pieces each."""
        return cdiv(self.taps * self.pieces, 2)

    def count(self, words: int) -> int:
        """Slabs of a layer.

        Args:
          words: of a pixel.

        Returns:
          How many.

        Example:
          >>> Slab(taps=9, factors=2, words=4).count(6)
          2
        """
        return cdiv(words, self.words)

    def idle(self, words: int) -> float:
        """Share of the multiplied bits that are padding.

        Args:
          words: of a pixel.

        Returns:
          0 or more, less than 1.

        Example:
          >>> Slab(taps=9, factors=2, words=4).idle(6)
          0.25
        """
        return 1 - self.taps * self.factors * words / (self.count(words) * self.steps * 8)


def best_slab(taps: int, words: int, factors: int) -> Slab:
    """Choose how much of K is multiplied between two barriers.

    Args:
      taps: 9 or 1.
      words: of a plane of a pixel.
      factors: 1 in a binary layer, else 2.

    Returns:
      The slab.

    Example:
      >>> best_slab(9, words=16, factors=2).steps
      9
    """
    if taps == 9:
        if factors == 2:
            return Slab(taps, factors, words=4 if words > 2 else 2)
        return Slab(taps, factors, words=8 if words > 4 else 4)
    few_idle = [size for size in (16, 8) if -words % size < 4]
    return Slab(taps, factors, words=(*few_idle, 8 if factors == 1 else 4)[0])


def fits(capability: int, taps: int, words: int, factors: int, exponents: int, groups: int) -> bool:
    """Whether warpgroups should multiply a layer, by a rule of thumb that was not measured.

    Only sm_90 has `wgmma`. With few channels much of an instruction would be padding.

    Args:
      capability: major version times ten plus the minor.
      taps: 9 or 1.
      words: of a plane of a pixel.
      factors: 1 in a binary layer, else 2.
      exponents: of the weights; powers of two have more than 1.
      groups: of 32 output channels, of all taps that have outputs of their own.

    Returns:
      Whether no more than a third of the bits are padding, and a program has 64 channels or more.

    Example:
      >>> fits(90, taps=9, words=2, factors=2, exponents=1, groups=2)
      True
    """
    slab = best_slab(taps, words, factors)
    few = taps * slab.pieces < 2
    return (
        capability == 90
        and exponents == 1
        and groups % 2 == 0
        and not few
        and (3 * slab.idle(words) <= 1)
    )


@dataclasses.dataclass(frozen=True)
class Tile:
    """Pixels and output channels of a program.

    Attributes:
      columns: of pixels, 8, 16 or 32, at most 8 for every warpgroup.
      warpgroups: 1, 2 or 4, with 64 pixels each.
      groups: of 32 output channels: 1, 2 or 4, a divisor of the layer's.
      registers: the most that a thread may have.
    """

    columns: int
    warpgroups: int
    groups: int
    registers: int = 128

    @property
    def rows(self) -> int:
        """Of pixels."""
        return 64 * self.warpgroups // self.columns

    def programs(self, images: int, height: int, width: int, groups: int) -> int:
        """Programs of a 3x3 convolution that compute all pixels and output channels.

        Args:
          images: how many.
          height: of an image in pixels.
          width: of an image in pixels.
          groups: of 32 output channels.

        Returns:
          How many.

        Example:
          >>> best_tile(1, 512, 512, groups=2).programs(1, 512, 512, groups=2)
          1024
        """
        tiles = cdiv(height, self.rows) * cdiv(width, self.columns)
        return images * tiles * (groups // self.groups)


_PROGRAMS = 132  # one for every multiprocessor of an H100


def best_tile(
    batch: int, height: int, width: int, groups: int,
    measured: Mapping[str, Mapping[str, int]] | None = None,
) -> Tile:  # fmt: skip
    """Choose a tile of a 3x3 convolution: one that was measured, else by rules of thumb.

    Args:
      batch: images.
      height: of an image in pixels.
      width: of an image in pixels.
      groups: of 32 output channels.
      measured: fastest tiles of the kernel on this device, as `triton_kernels.tuned` has them.

    Returns:
      The tile; by rules of thumb the largest that keeps the device busy, of its shapes that which
      wastes fewest pixels.

    Example:
      >>> best_tile(1, 512, 512, groups=2)
      Tile(columns=16, warpgroups=4, groups=2, registers=128)
    """
    key = shape_key(batch=batch, height=height, width=width, groups=groups)
    if measured and key in measured:
        return Tile(**measured[key])

    def programs(tile: Tile) -> int:
        return tile.programs(batch, height, width, groups)

    def shaped(warpgroups: int, of_program: int) -> Tile:
        shapes = [
            Tile(columns, warpgroups, of_program)
            for columns in (16, 8, 32)
            if columns <= 8 * warpgroups
        ]
        return min(shapes, key=programs)

    tiles = [shaped(*size) for size in _sizes(groups)]
    return next((tile for tile in tiles if programs(tile) >= _PROGRAMS), tiles[-1])


def best_stretch(
    pixels: int, groups: int, measured: Mapping[str, Mapping[str, int]] | None = None
) -> Tile:
    """Choose a tile of a transposed convolution, whose pixels follow each other.

    Args:
      pixels: of all images.
      groups: of 32 output channels of all four taps.
      measured: fastest tiles of the kernel on this device, as `triton_kernels.tuned` has them.

    Returns:
      The tile, of 8 columns; by rules of thumb the largest that keeps the device busy.

    Example:
      >>> best_stretch(4 * 32 * 32, groups=4 * 16)
      Tile(columns=8, warpgroups=4, groups=4, registers=128)
    """
    key = shape_key(pixels=pixels, groups=groups)
    if measured and key in measured:
        return Tile(**measured[key])
    tiles = [Tile(8, *size) for size in _sizes(groups)]
    busy = (
        tile
        for tile in tiles
        if cdiv(pixels, 64 * tile.warpgroups) * (groups // tile.groups) >= _PROGRAMS
    )
    return next(busy, tiles[-1])


def _sizes(groups: int) -> list[tuple[int, int]]:
    """Warpgroups and groups of a program, from the most to the least."""
    most = next(count for count in (4, 2, 1) if groups % count == 0)
    least = min(most, 2)
    return [(4, most), (2, most), (1, most), (1, least)]
