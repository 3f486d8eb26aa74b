"""What one program of a bit-sliced convolution computes."""

import dataclasses
from collections.abc import Mapping

from triton_kernels.launch import cdiv
from triton_kernels.tuned import shape_key

_ENOUGH_BLOCKS = 256  # two for every multiprocessor of a large GPU
_MOST_SLICES = 12  # of four words: ptxas spills with more


@dataclasses.dataclass(frozen=True)
class Tile:
    """Outputs and words of a program.

    Attributes:
      outputs: one a warp; the more, the more often a plane that was fetched is used. 1 to 16, a
        power of two.
      vector: words that a thread counts at once: 1, 2 or 4, and a divisor of a row's words.
    """

    outputs: int
    vector: int

    @property
    def constants(self) -> dict[str, int]:
        """What the kernels call these."""
        return {"OUTPUTS": self.outputs, "VECTOR": self.vector}


def best_tile(
    channels: int, height: int, words: int, *, images: int, planes: int, makers: int = 1,
    measured: Mapping[str, Mapping[str, int]] | None = None,
) -> Tile:  # fmt: skip
    """Choose a tile: one that was measured, else by rules of thumb.

    Args:
      channels: of the output.
      height: of the input.
      words: of a row of the input.
      images: of the batch.
      planes: of an activation; two take the registers of half the words.
      makers: programs that the same words have for the same channels.
      measured: fastest tiles of the kernel on this device, as `triton_kernels.tuned` has them.

    Returns:
      The tile; by rules of thumb as many words a thread as a row and 32 threads allow, as many
      outputs as leave work for all multiprocessors.

    Example:
      >>> best_tile(channels=64, height=512, words=16, images=1, planes=1)
      Tile(outputs=16, vector=4)
    """
    key = shape_key(
        channels=channels, height=height, words=words, images=images, planes=planes, makers=makers
    )
    if measured and key in measured:
        return Tile(**measured[key])
    vector = 4 // planes
    while vector > 1 and (words % vector or 32 * vector >= 2 * height * words):
        vector //= 2
    tiles = images * makers * cdiv(height * words, 32 * vector)
    outputs = 16
    while outputs > 1 and outputs >= 2 * channels:
        outputs //= 2
    while outputs > 4 and tiles * cdiv(channels, outputs) < _ENOUGH_BLOCKS:
        outputs //= 2
    return Tile(outputs, vector)


def fitting(tile: Tile, *, slices: int, lists: int) -> Tile:
    """Take fewer words at once where 128 registers would not hold their counters.

    Args:
      tile: of a program.
      slices: of a counter.
      lists: that an output has; with powers of two more than 2.

    Returns:
      The tile, or one of two words a thread.

    Example:
      >>> fitting(Tile(16, 4), slices=13, lists=2)
      Tile(outputs=16, vector=2)
    """
    if tile.vector == 4 and (slices > _MOST_SLICES or lists > 2):
        return dataclasses.replace(tile, vector=2)
    return tile
