"""What one program of a convolution computes, and how."""

import dataclasses
from collections.abc import Mapping

from triton_kernels.launch import cdiv
from triton_kernels.tuned import shape_key

_PIXELS = 64  # 4 pixels of 4 channels a thread: enough is counted for every word loaded


@dataclasses.dataclass(frozen=True)
class Tile:
    """Pixels of a program, and words that a thread loads at once.

    Attributes:
      rows: of pixels, a power of two.
      columns: of pixels, a power of two.
      chunk: words: 1, 2 or 4, and a divisor of the words of a pixel.
      warps: 1, 2, 4 or 8, each with 4 pixels or more.
      registers: the most that a thread may have.
    """

    rows: int
    columns: int
    chunk: int
    warps: int
    registers: int

    @property
    def constants(self) -> dict[str, int]:
        """What the kernels call these."""
        return {
            "ROWS": self.rows,
            "COLUMNS": self.columns,
            "CHUNK": self.chunk,
            "WARPS": self.warps,
        }

    def covering(self, images: int, height: int, width: int) -> int:
        """Tiles that cover images.

        Args:
          images: how many.
          height: of an image in pixels.
          width: of an image in pixels.

        Returns:
          How many.

        Example:
          >>> Tile(rows=8, columns=8, chunk=1, warps=4, registers=168).covering(2, 30, 40)
          40
        """
        return images * cdiv(height, self.rows) * cdiv(width, self.columns)


def tile_shape(height: int, width: int, pixels: int) -> tuple[int, int]:
    """Choose the shape of a tile that leaves fewest pixels unused.

    Args:
      height: of the image in pixels.
      width: of the image in pixels.
      pixels: of the tile, a power of two, 64 or more.

    Returns:
      Rows and columns.

    Example:
      >>> tile_shape(30, 40, 64)
      (8, 8)
    """

    def tiles(columns: int) -> int:
        return cdiv(height, pixels // columns) * cdiv(width, columns)

    columns = min((16, 8, 32, 4, 64), key=tiles)
    return pixels // columns, columns


def best_tile(
    x: tuple[int, ...], weight_planes: int, measured: Mapping[str, Mapping[str, int]] | None = None
) -> Tile:
    """Choose a convolution's tile: one that was measured, else by rules of thumb.

    Args:
      x: shape of the input words, B, H, W, P and N.
      weight_planes: 1 of a binary layer, 2 of a masked one, 4 with powers of two.
      measured: fastest tiles of the kernel on this device, as `triton_kernels.tuned` has them.

    Returns:
      The tile; by rules of thumb 64 pixels, and a chunk that fits the registers.

    Example:
      >>> best_tile((1, 30, 40, 1, 8), weight_planes=2)
      Tile(rows=8, columns=8, chunk=2, warps=4, registers=168)
    """
    _, height, width, planes, words = x
    key = shape_key(
        height=height, width=width, planes=planes, words=words, weight_planes=weight_planes
    )
    if measured and key in measured:
        return Tile(**measured[key])
    chunk = 2 if words % 2 == 0 and planes == 1 and weight_planes <= 2 else 1
    # Three blocks of a multiprocessor, or two where there is most to hold.
    registers = 168 if planes * weight_planes < 8 else 200
    return Tile(*tile_shape(height, width, _PIXELS), chunk, warps=4, registers=registers)
