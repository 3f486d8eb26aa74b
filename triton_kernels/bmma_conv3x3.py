# pyrefly: ignore-errors
"""3x3 convolution of channel-packed words on Tensor Cores: implicit GEMM, thresholds and packing.

Shape letters: B H W, P planes of activations, N words of input channels, G groups of 32 output
channels, T thresholds, E exponents, F factors, L words of a lane.
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
from triton_kernels.places import tile_of_image


@gluon.jit
def bmma_conv3x3_kernel(
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
    """One tile of pixels of one image and a few groups of output channels a program.

    Args:
      x: [B, H, W, P, N] uint32.
      weights: [G, E, steps, F, 4, 8, 4, L] uint32: blocks of channels, channels, members of a
        step, words; see `counted`.
      least: [T, G, 32] int32, compared with the counts.
      height: H.
      width: W.
      groups: G.
      y: [B, H, W, P, G] uint32.
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
      GROUPS: of the program, one a warp; it divides G.
    """
    BLOCKS: gl.constexpr = BLOCKS_OF_WARP * PIXEL_WARPS
    ROWS: gl.constexpr = 16 * BLOCKS // COLUMNS
    tile: gl.constexpr = lanes_layout(BLOCKS_OF_WARP, PIXEL_WARPS, GROUPS)

    program = gl.program_id(0)
    first_group = program % (groups // GROUPS) * GROUPS
    program = program // (groups // GROUPS)
    top, left, first_pixel = tile_of_image(program, height, width, ROWS, COLUMNS)

    counts = counted(
        x + (first_pixel + top.to(gl.int64) * width + left) * (PLANES * WORDS),
        weights,
        top,
        left,
        first_group,
        height,
        width,
        9,
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

    thresholds = loaded_thresholds(least, first_group, groups, PLANES, GROUPS, tile)
    group = groups_of_words(first_group, GROUPS, tile)
    for half in gl.static_range(2):
        even, odd = counts[2 * half], counts[2 * half + 1]
        words = code_words(even, odd, thresholds, PLANES, tile)
        row, column = pixels_of_lanes(top, left, half, COLUMNS, BLOCKS, tile)
        pixel = gl.expand_dims(first_pixel + row.to(gl.int64) * width + column, 1)
        inside = gl.expand_dims((row < height) & (column < width), 1)
        store_words(words, pixel, inside, group, y, groups, PLANES, tile)


def launch(
    x: tuple[int, ...], *, factors: int, exponents: int, groups: int, form: Form, tile: Tile
) -> Launch:
    """Launch `bmma_conv3x3_kernel` with arrays (x, weights, least), giving y.

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
    return Launch(
        kernel=bmma_conv3x3_kernel,
        blocks=tile.programs(batch, height, width, groups),
        sizes={"height": height, "width": width, "groups": groups},
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
