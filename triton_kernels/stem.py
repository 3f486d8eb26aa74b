# pyrefly: ignore-errors
"""3x3 convolution of 8-bit images, compared and packed: integers, which float32 holds exactly.

Shape letters: B H W C, P planes of activations, G groups of 32 output channels, T thresholds.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from triton_kernels.counting import code_words
from triton_kernels.launch import Launch, cdiv
from triton_kernels.places import pixels_of_tile, tile_of_image
from triton_kernels.tiles import tile_shape

_PIXELS = 128
_WARPS = 4


@gluon.jit
def stem_kernel(
    levels,
    weight,
    theta,
    height,
    width,
    groups,
    y,
    CHANNELS: gl.constexpr,
    PLANES: gl.constexpr,
    ROWS: gl.constexpr,
    COLUMNS: gl.constexpr,
    WARPS: gl.constexpr,
):
    """One tile of pixels of one image and one group of 32 output channels a program.

    Args:
      levels: [B, H, W, C] uint8; a level counts as ``2 level - 255``, pixels outside as 0.
      weight: [G, 3, 3, C, 32] float32, whole numbers.
      theta: [T, G, 32] int32.
      height: H.
      width: W.
      groups: G.
      y: [B, H, W, P, G] uint32.
      CHANNELS: C.
      PLANES: P.
      ROWS: of the tile.
      COLUMNS: of the tile.
      WARPS: of the program.
    """
    PIXELS: gl.constexpr = ROWS * COLUMNS
    tile: gl.constexpr = gl.BlockedLayout([1, 1], [4, 8], [WARPS, 1], [1, 0])
    block = gl.program_id(0)
    group = block % groups
    block = block // groups
    top, left, first_pixel = tile_of_image(block, height, width, ROWS, COLUMNS)

    row, column = pixels_of_tile(top, left, ROWS, COLUMNS, gl.SliceLayout(1, tile))
    channel = gl.arange(0, 32, layout=gl.SliceLayout(0, tile))
    at = first_pixel + row.to(gl.int64) * width + column
    levels += at * CHANNELS
    weight += group * (9 * CHANNELS * 32) + channel

    sums = gl.full([PIXELS, 32], 0, gl.float32, layout=tile)
    for tap in range(9):
        i, j = tap // 3 - 1, tap % 3 - 1
        beside = column + j
        inside = (row + i >= 0) & (row + i < height) & (beside >= 0) & (beside < width)
        source = levels + (i * width + j) * CHANNELS
        for c in gl.static_range(CHANNELS):
            level = gl.load(source + c, inside, other=0).to(gl.float32)
            number = gl.expand_dims(gl.where(inside, 2 * level - 255, 0.0), 1)
            factor = gl.expand_dims(gl.load(weight + c * 32), 0)
            sums = gl.fma(number, factor, sums)
        weight += CHANNELS * 32

    words = code_words(sums.to(gl.int32), theta + group * 32 + channel, groups * 32, PLANES)
    y += at * (PLANES * groups) + group
    for plane in gl.static_range(PLANES):
        gl.store(y + plane * groups, words[plane], mask=(row < height) & (column < width))


def launch(levels: tuple[int, ...], *, planes: int, groups: int) -> Launch:
    """Launch `stem_kernel` with arrays (levels, weight, theta), giving y.

    Args:
      levels: shape, B, H, W and C.
      planes: P.
      groups: G.

    Returns:
      The launch.
    """
    batch, height, width, channels = levels
    rows, columns = tile_shape(height, width, _PIXELS)
    return Launch(
        kernel=stem_kernel,
        blocks=batch * cdiv(height, rows) * cdiv(width, columns) * groups,
        sizes={"height": height, "width": width, "groups": groups},
        constants={
            "CHANNELS": channels,
            "PLANES": planes,
            "ROWS": rows,
            "COLUMNS": columns,
            "WARPS": _WARPS,
        },
        warps=_WARPS,
        registers=168,
    )
