"""Which instruction multiplies one-bit matrices, and what one program of a convolution computes."""

import dataclasses
from collections.abc import Mapping

from triton_kernels.launch import cdiv
from triton_kernels.tuned import shape_key


@dataclasses.dataclass(frozen=True)
class Form:
    """An instruction, and how its products make a convolution.

    Attributes:
      by_and: whether bits are multiplied by AND, else by XOR.
      rows: of the instruction, 8 or 16 pixels.
      lane_words: 1 or 2, a divisor of the words of a pixel; a step has four times as many.
    """

    by_and: bool
    rows: int
    lane_words: int

    @property
    def constants(self) -> dict[str, int]:
        """What the kernels call these."""
        return {
            "AND": int(self.by_and),
            "MMA_ROWS": self.rows,
            "LANE_WORDS": self.lane_words,
        }

    def steps(self, words: int) -> int:
        """Steps along K.

        Args:
          words: of all taps.

        Returns:
          How many.

        Example:
          >>> Form(by_and=True, rows=16, lane_words=2).steps(9 * 4)
          5
        """
        return cdiv(words, 4 * self.lane_words)


def best_form(capability: int, taps: int, words: int) -> Form:
    """Choose the instruction: one that the hardware has, and whose steps are seldom half empty.

    sm_75 multiplies by XOR alone, 8 rows at a time. sm_80 to sm_89 have AND as well, and a binary
    layer takes one product by XOR. sm_90 emulates XOR.

    Args:
      capability: major version times ten plus the minor, 75 to 99.
      taps: 9 or 1.
      words: of a pixel.

    Returns:
      The form.

    Example:
      >>> best_form(90, taps=9, words=2)  # a ninth of the words of 5 steps is idle, not a quarter
      Form(by_and=True, rows=16, lane_words=1)
    """
    short = Form(by_and=capability >= 90, rows=16 if capability >= 80 else 8, lane_words=1)
    long = dataclasses.replace(short, lane_words=2)
    few_idle = 16 * long.steps(taps * words) <= 9 * short.steps(taps * words)
    return long if words % 2 == 0 and few_idle else short


@dataclasses.dataclass(frozen=True)
class Tile:
    """Pixels and output channels of a program.

    Attributes:
      columns: of pixels, 8, 16, 32 or 64.
      blocks: of 16 pixels, of a warp: 1, 2 or 4.
      pixel_warps: that share channels.
      group_warps: that share pixels, with 32 channels each; a divisor of the groups.
      registers: the most that a thread may have.
    """

    columns: int
    blocks: int
    pixel_warps: int
    group_warps: int
    registers: int

    @property
    def rows(self) -> int:
        """Of pixels."""
        return 16 * self.blocks * self.pixel_warps // self.columns

    @property
    def warps(self) -> int:
        """Of a program."""
        return self.pixel_warps * self.group_warps

    @property
    def constants(self) -> dict[str, int]:
        """What the kernels call these."""
        return {
            "COLUMNS": self.columns,
            "BLOCKS_OF_WARP": self.blocks,
            "PIXEL_WARPS": self.pixel_warps,
            "GROUPS": self.group_warps,
        }

    def programs(self, images: int, height: int, width: int, groups: int) -> int:
        """Programs that compute all pixels and output channels.

        Args:
          images: how many.
          height: of an image in pixels.
          width: of an image in pixels.
          groups: of 32 output channels.

        Returns:
          How many.

        Example:
          >>> best_tile(1, 512, 512, groups=2).programs(1, 512, 512, groups=2)
          2048
        """
        tiles = cdiv(height, self.rows) * cdiv(width, self.columns)
        return images * tiles * (groups // self.group_warps)


_PROGRAMS = 264  # two for every multiprocessor of the largest device


def best_tile(
    batch: int, height: int, width: int, groups: int,
    measured: Mapping[str, Mapping[str, int]] | None = None,
) -> Tile:  # fmt: skip
    """Choose a tile: one that was measured, else by rules of thumb.

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
      Tile(columns=16, blocks=4, pixel_warps=2, group_warps=2, registers=168)
    """
    key = shape_key(batch=batch, height=height, width=width, groups=groups)
    if measured and key in measured:
        return Tile(**measured[key])
    group_warps = 2 - groups % 2

    def programs(tile: Tile) -> int:
        return tile.programs(batch, height, width, groups)

    def shaped(blocks: int) -> Tile:
        pixels = 16 * blocks * 4 // group_warps
        shapes = [
            Tile(columns, blocks, 4 // group_warps, group_warps, registers=168)
            for columns in (16, 8, 32, 64)
            if columns <= pixels
        ]
        return min(shapes, key=programs)

    tiles = map(shaped, (4, 2, 1))
    return next((tile for tile in tiles if programs(tile) >= _PROGRAMS), shaped(1))
