# pyrefly: ignore-errors
"""2x2 transposed convolution with stride 2 by warpgroups: four 1x1 convolutions.

Shape letters: B H W of the input, P planes of activations, N words of input channels, G groups of
32 output channels, T thresholds, S slabs of K.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from triton_kernels.launch import Launch, cdiv
from triton_kernels.wgmma import counted, slots_layout
from triton_kernels.wgmma_codes import code_words, store_words
from triton_kernels.wgmma_tiles import Slab, Tile


@gluon.jit
def wgmma_up_conv2x2_kernel(
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
    WARPGROUPS: gl.constexpr,
    GROUPS: gl.constexpr,
):
    """A stretch of pixels and a few groups of output channels of the taps a program.

    Args:
      x: [B, H, W, P, N] uint32.
      weights: [2, 2, G, S, steps, 2, 32, 4] uint32, as those of `wgmma_conv3x3_kernel`.
      least: [T, 2, 2, G, 32] int32, compared with the counts.
      height: B H: rows of all images follow each other.
      width: W.
      groups: G.
      y: [B, 2H, 2W, P, G] uint32.
      WORDS: N.
      PLANES: P.
      FACTORS: 1 in a binary layer, else 2.
      SLAB_WORDS: words of a pixel that a slab takes.
      WARPGROUPS: of the program, each with 64 pixels: 1, 2 or 4.
      GROUPS: of the program, 1, 2 or 4, a divisor of 4 G.
    """
    PIXELS: gl.constexpr = 64 * WARPGROUPS
    SLABS: gl.constexpr = (WORDS + SLAB_WORDS - 1) // SLAB_WORDS
    STEPS: gl.constexpr = (FACTORS * SLAB_WORDS // 4 + 1) // 2

    program = gl.program_id(0)
    first_group = program % (4 * groups // GROUPS) * GROUPS
    first = program // (4 * groups // GROUPS) * PIXELS
    left = gl.minimum(height * width - first, PIXELS)

    slots: gl.constexpr = gl.SliceLayout(1, slots_layout(WARPGROUPS, SLAB_WORDS))
    slot = gl.arange(0, 128 * WARPGROUPS, layout=slots)
    counts = counted(
        x + first.to(gl.int64) * (PLANES * WORDS),
        slot * (PLANES * WORDS),
        slot < left,
        weights + first_group.to(gl.int64) * (SLABS * STEPS * 2 * 32 * 4),
        1,
        WORDS,
        PLANES,
        FACTORS,
        SLAB_WORDS,
        8,
        WARPGROUPS,
        GROUPS,
    )

    of_words: gl.constexpr = gl.SliceLayout(2, counts.type.layout)
    group = first_group + gl.arange(0, GROUPS, layout=gl.SliceLayout(0, of_words))
    tap = gl.expand_dims(group // groups, 0)
    pixel = gl.expand_dims(gl.arange(0, PIXELS, layout=gl.SliceLayout(1, of_words)), 1)
    column = first % width + pixel
    row = first // width + column // width
    column = column % width
    store_words(
        code_words(counts, least, first_group, 4 * groups, PLANES),
        (2 * row.to(gl.int64) + tap // 2) * (2 * width) + (2 * column + tap % 2),
        pixel < left,
        gl.expand_dims(group % groups, 0),
        y,
        groups,
        PLANES,
    )


def launch(x: tuple[int, ...], *, factors: int, groups: int, slab: Slab, tile: Tile) -> Launch:
    """Launch `wgmma_up_conv2x2_kernel` with arrays (x, weights, least), giving y.

    Args:
      x: shape, B, H, W, P and N.
      factors: 1 in a binary layer, else 2.
      groups: G.
      slab: of K; the weights are arranged for it.
      tile: of a program, with 8 columns.

    Returns:
      The launch.

    Raises:
      ValueError: for 2^31 pixels or more, whose numbers do not fit 32 bits.
    """
    batch, height, width, planes, words = x
    stretches = cdiv(batch * height * width, 64 * tile.warpgroups)
    if stretches * 64 * tile.warpgroups >= 2**31:
        raise ValueError(f"{batch} images of {width}x{height} pixels are too many at a time")
    return Launch(
        kernel=wgmma_up_conv2x2_kernel,
        blocks=stretches * (4 * groups // tile.groups),
        sizes={"height": batch * height, "width": width, "groups": groups},
        constants={
            "WORDS": words,
            "PLANES": planes,
            "FACTORS": factors,
            "SLAB_WORDS": slab.words,
            "WARPGROUPS": tile.warpgroups,
            "GROUPS": tile.groups,
        },
        warps=4 * tile.warpgroups,
        registers=tile.registers,
    )
