# pyrefly: ignore-errors
"""3x3 convolution of channel-packed words by warpgroups: implicit GEMM, thresholds and packing.

Shape letters: B H W, P planes of activations, N words of input channels, G groups of 32 output
channels, T thresholds, S slabs of K.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from triton_kernels.launch import Launch
from triton_kernels.places import tile_of_image
from triton_kernels.wgmma import counted, slots_layout
from triton_kernels.wgmma_codes import code_words, store_words
from triton_kernels.wgmma_tiles import Slab, Tile


@gluon.jit
def wgmma_conv3x3_kernel(
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
    SLAB_WORDS: gl.constexpr,
    COLUMNS: gl.constexpr,
    WARPGROUPS: gl.constexpr,
    GROUPS: gl.constexpr,
):
    """One tile of pixels of one image and a few groups of output channels a program.

    Args:
      x: [B, H, W, P, N] uint32.
      weights: [G, S, steps, 2, 32, 4] uint32: halves of a step, channels, words of a piece.
      least: [T, G, 32] int32, compared with the counts.
      height: H.
      width: W.
      groups: G.
      y: [B, H, W, P, G] uint32.
      WORDS: N.
      PLANES: P.
      FACTORS: 1 in a binary layer, else 2.
      SLAB_WORDS: words of a pixel that a slab takes.
      COLUMNS: of the tile, 8, 16 or 32.
      WARPGROUPS: of the program, each with 8x8 pixels: 1, 2 or 4.
      GROUPS: of the program, 1, 2 or 4, a divisor of G.
    """
    SLABS: gl.constexpr = (WORDS + SLAB_WORDS - 1) // SLAB_WORDS
    STEPS: gl.constexpr = (9 * FACTORS * SLAB_WORDS // 4 + 1) // 2
    ROWS: gl.constexpr = 64 * WARPGROUPS // COLUMNS

    program = gl.program_id(0)
    first_group = program % (groups // GROUPS) * GROUPS
    program = program // (groups // GROUPS)
    top, left, first_pixel = tile_of_image(program, height, width, ROWS, COLUMNS)

    slots: gl.constexpr = gl.SliceLayout(1, slots_layout(WARPGROUPS, SLAB_WORDS))
    slot = gl.arange(0, 128 * WARPGROUPS, layout=slots)
    below, beside = slot // (COLUMNS + 2) - 1, slot % (COLUMNS + 2) - 1
    row, column = top + below, left + beside
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    counts = counted(
        x + (first_pixel + top.to(gl.int64) * width + left) * (PLANES * WORDS),
        (below * width + beside) * (PLANES * WORDS),
        inside & (below <= ROWS),
        weights + first_group.to(gl.int64) * (SLABS * STEPS * 2 * 32 * 4),
        9,
        WORDS,
        PLANES,
        FACTORS,
        SLAB_WORDS,
        COLUMNS,
        WARPGROUPS,
        GROUPS,
    )

    of_words: gl.constexpr = gl.SliceLayout(2, counts.type.layout)
    group = first_group + gl.arange(0, GROUPS, layout=gl.SliceLayout(0, of_words))
    pixel = gl.arange(0, 64 * WARPGROUPS, layout=gl.SliceLayout(1, of_words))
    block = pixel // 64
    row = top + block // (COLUMNS // 8) * 8 + pixel % 64 // 8
    column = left + block % (COLUMNS // 8) * 8 + pixel % 8
    store_words(
        code_words(counts, least, first_group, groups, PLANES),
        gl.expand_dims(first_pixel + row.to(gl.int64) * width + column, 1),
        gl.expand_dims((row < height) & (column < width), 1),
        gl.expand_dims(group, 0),
        y,
        groups,
        PLANES,
    )


def launch(x: tuple[int, ...], *, factors: int, groups: int, slab: Slab, tile: Tile) -> Launch:
    """Launch `wgmma_conv3x3_kernel` with arrays (x, weights, least), giving y.

    Args:
      x: shape, B, H, W, P and N.
      factors: 1 in a binary layer, else 2.
      groups: G.
      slab: of K; the weights are arranged for it.
      tile: of a program.

    Returns:
      The launch.
    """
    batch, height, width, planes, words = x
    return Launch(
        kernel=wgmma_conv3x3_kernel,
        blocks=tile.programs(batch, height, width, groups),
        sizes={"height": height, "width": width, "groups": groups},
        constants={
            "WORDS": words,
            "PLANES": planes,
            "FACTORS": factors,
            "SLAB_WORDS": slab.words,
            "COLUMNS": tile.columns,
            "WARPGROUPS": tile.warpgroups,
            "GROUPS": tile.groups,
        },
        warps=4 * tile.warpgroups,
        registers=tile.registers,
    )
