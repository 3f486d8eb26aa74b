# pyrefly: ignore-errors
"""2x2 transposed convolution with stride 2 on Tensor Cores: four 1x1 convolutions.

Shape letters: B H W of the input, P planes of activations, N words of input channels, G groups of
32 output channels, T thresholds, E exponents, F factors, L words of a lane.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from triton_kernels.bmma import counted
from triton_kernels.bmma_lanes import (
    code_words,
    groups_of_words,
    lanes_layout,
    loaded_thresholds,
    pixels_of_lanes,
    store_words,
)
from triton_kernels.bmma_tiles import Form, Tile
from triton_kernels.launch import Launch
from triton_kernels.places import tile_of_batch


@gluon.jit
def bmma_up_conv2x2_kernel(
    x,
    weights,
    least,
    height,
    width,
    groups,
    y,
    WORDS: gl.constexpr,
    PLANES: gl.constexpr,
    FACTORS: gl.constexpr,
    EXPONENTS: gl.constexpr,
    AND: gl.constexpr,
    MMA_ROWS: gl.constexpr,
    LANE_WORDS: gl.constexpr,
    COLUMNS: gl.constexpr,
    BLOCKS_OF_WARP: gl.constexpr,
    PIXEL_WARPS: gl.constexpr,
    GROUPS: gl.constexpr,
):
    """One tile of pixels and a few groups of output channels of the taps a program.

    Args:
      x: [B, H, W, P, N] uint32.
      weights: [2, 2, G, E, steps, F, 4, 8, 4, L] uint32, as those of `bmma_conv3x3_kernel`.
      least: [T, 2, 2, G, 32] int32, compared with the counts.
      height: B H: rows of all images follow each other.
      width: W.
      groups: G.
      y: [B, 2H, 2W, P, G] uint32.
      WORDS: N.
      PLANES: P.
      FACTORS: F, 1 in a binary layer, else 2.
      EXPONENTS: E, 3 with powers of two, else 1.
      AND: whether bits are multiplied by AND, else by XOR.
      MMA_ROWS: of the instruction, 8 or 16.
      LANE_WORDS: L, 1 or 2, which divides N.
      COLUMNS: of the tile.
      BLOCKS_OF_WARP: blocks of 16 pixels of a warp.
      PIXEL_WARPS: warps that share channels.
      GROUPS: of the program, one a warp; it divides 4 G.
    """
    BLOCKS: gl.constexpr = BLOCKS_OF_WARP * PIXEL_WARPS
    tile: gl.constexpr = lanes_layout(BLOCKS_OF_WARP, PIXEL_WARPS, GROUPS)

    program = gl.program_id(0)
    first_group = program % (4 * groups // GROUPS) * GROUPS
    program = program // (4 * groups // GROUPS)
    top, left = tile_of_batch(program, width, 16 * BLOCKS // COLUMNS, COLUMNS)

    counts = counted(
        x + (top.to(gl.int64) * width + left) * (PLANES * WORDS),
        weights,
        top,
        left,
        first_group,
        height,
        width,
        1,
        WORDS,
        PLANES,
        FACTORS,
        EXPONENTS,
        AND,
        MMA_ROWS,
        LANE_WORDS,
        COLUMNS,
        BLOCKS,
        GROUPS,
        tile,
    )

    thresholds = loaded_thresholds(least, first_group, 4 * groups, PLANES, GROUPS, tile)
    group = groups_of_words(first_group, GROUPS, tile)
    tap = group // groups
    for half in gl.static_range(2):
        even, odd = counts[2 * half], counts[2 * half + 1]
        words = code_words(even, odd, thresholds, PLANES, tile)
        row, column = pixels_of_lanes(top, left, half, COLUMNS, BLOCKS, tile)
        inside = gl.expand_dims((row < height) & (column < width), 1)
        row, column = gl.expand_dims(row, 1), gl.expand_dims(column, 1)
        pixel = (2 * row.to(gl.int64) + tap // 2) * (2 * width) + (2 * column + tap % 2)
        store_words(words, pixel, inside, group % groups, y, groups, PLANES, tile)


def launch(
    x: tuple[int, ...], *, factors: int, exponents: int, groups: int, form: Form, tile: Tile
) -> Launch:
    """Launch `bmma_up_conv2x2_kernel` with arrays (x, weights, least), giving y.

    Args:
      x: shape, B, H, W, P and N.
      factors: F.
      exponents: E.
      groups: G.
      form: of the products; the weights are arranged for it.
      tile: of a program.

    Returns:
      The launch.
    """
    batch, height, width, planes, words = x
    rows = batch * height
    return Launch(
        kernel=bmma_up_conv2x2_kernel,
        blocks=tile.programs(1, rows, width, 4 * groups),
        sizes={"height": rows, "width": width, "groups": groups},
        constants={
            "WORDS": words,
            "PLANES": planes,
            "FACTORS": factors,
            "EXPONENTS": exponents,
            **form.constants,
            **tile.constants,
        },
        warps=tile.warps,
        registers=tile.registers,
    )
