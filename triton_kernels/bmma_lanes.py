# pyrefly: ignore-errors
"""Which pixels and channels a lane has in a product of one-bit matrices, and codes of its counts.

The axes are those of `triton_kernels.bmma`.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.constexpr_function
def lanes_layout(BLOCKS_OF_WARP, PIXEL_WARPS, GROUPS):
    """Where a tile is: [BLOCKS_OF_WARP * PIXEL_WARPS, GROUPS, 4, 32], a group a warp."""
    return gl.BlockedLayout(
        [BLOCKS_OF_WARP, 1, 4, 1], [1, 1, 1, 32], [PIXEL_WARPS, GROUPS, 1, 1], [3, 2, 1, 0]
    )


@gluon.jit
def pixels_of_lanes(
    top, left, HALF: gl.constexpr, COLUMNS: gl.constexpr, BLOCKS: gl.constexpr, tile: gl.constexpr
):
    """Rows and columns of pixels, [BLOCKS, 32]: upper ones in half 0, lower ones in half 1."""
    of_pixels: gl.constexpr = gl.SliceLayout(1, gl.SliceLayout(2, tile))
    block = gl.expand_dims(gl.arange(0, BLOCKS, layout=gl.SliceLayout(1, of_pixels)), 1)
    lane = gl.expand_dims(gl.arange(0, 32, layout=gl.SliceLayout(0, of_pixels)), 0)
    # A row of a tile has eight pixels or more.
    first = block * 16 + HALF * 8
    return top + first // COLUMNS + lane * 0, left + first % COLUMNS + lane // 4


@gluon.jit
def words_of_lanes(
    top,
    left,
    HALF: gl.constexpr,
    width,
    WORDS_OF_PIXEL: gl.constexpr,
    COLUMNS: gl.constexpr,
    BLOCKS: gl.constexpr,
    tile: gl.constexpr,
):
    """Rows and columns of pixels, and how far their words begin from those of the tile.

    Relative to the tile, offsets fit 32 bits and take half the registers.
    """
    row, column = pixels_of_lanes(top, left, HALF, COLUMNS, BLOCKS, tile)
    return row, column, ((row - top) * width + (column - left)) * WORDS_OF_PIXEL


@gluon.jit
def groups_of_warps(first, GROUPS: gl.constexpr, tile: gl.constexpr):
    """Numbers of groups, [GROUPS, 1, 1]."""
    of_channels: gl.constexpr = gl.SliceLayout(0, tile)
    group = first + gl.arange(0, GROUPS, layout=gl.SliceLayout(1, gl.SliceLayout(2, of_channels)))
    return gl.expand_dims(gl.expand_dims(group, 1), 2)


@gluon.jit
def fragments_of_lanes(tile: gl.constexpr):
    """Places of a lane's words of weights among those of a group and a step, [1, 4, 32]."""
    eight, lane = _eights_and_lanes(tile)
    return eight * 32 + lane


@gluon.jit
def even_channels(tile: gl.constexpr):
    """Numbers in their group of the even channels that a lane counts, [1, 4, 32]."""
    eight, lane = _eights_and_lanes(tile)
    return eight * 8 + lane % 4 * 2


@gluon.jit
def _eights_and_lanes(tile: gl.constexpr):
    of_channels: gl.constexpr = gl.SliceLayout(0, tile)
    eight = gl.arange(0, 4, layout=gl.SliceLayout(0, gl.SliceLayout(2, of_channels)))
    lane = gl.arange(0, 32, layout=gl.SliceLayout(0, gl.SliceLayout(1, of_channels)))
    return (
        gl.expand_dims(gl.expand_dims(eight, 0), 2),
        gl.expand_dims(gl.expand_dims(lane, 0), 1),
    )


@gluon.jit
def loaded_thresholds(
    least, first_group, groups, PLANES: gl.constexpr, GROUPS: gl.constexpr, tile: gl.constexpr
):
    """Thresholds of even and of odd channels, int32 [1, GROUPS, 4, 32], in ascending pairs.

    Args:
      least: pointer to [T, groups, 32] int32.
      first_group: of these.
      groups: of all.
      PLANES: of codes.
      GROUPS: of the tile.
      tile: the layout.
    """
    least += groups_of_warps(first_group, GROUPS, tile) * 32 + even_channels(tile)
    apart = groups * 32
    if PLANES == 1:
        loaded = (_threshold(least), _threshold(least + 1))
    else:
        second, third = least + apart, least + 2 * apart
        loaded = (
            _threshold(least),
            _threshold(least + 1),
            _threshold(second),
            _threshold(second + 1),
            _threshold(third),
            _threshold(third + 1),
        )
    return loaded


@gluon.jit
def _threshold(at):
    return gl.expand_dims(gl.load(at), 0)


@gluon.jit
def code_words(even, odd, thresholds, PLANES: gl.constexpr, tile: gl.constexpr):
    """Compare counts with thresholds.

    Returns:
      A tuple of planes of codes, uint32 [BLOCKS, GROUPS, 32]; the four lanes of a pixel have the
      same words.
    """
    passed = _pairs(even >= thresholds[0], odd >= thresholds[1])
    if PLANES == 1:
        words = (_word(passed, tile),)
    else:
        second = _pairs(even >= thresholds[2], odd >= thresholds[3])
        third = _pairs(even >= thresholds[4], odd >= thresholds[5])
        words = _word(passed ^ second ^ third, tile), _word(second, tile)
    return words


@gluon.jit
def _pairs(even, odd):
    return even.to(gl.uint32) | (odd.to(gl.uint32) << 1)


@gluon.jit
def _word(pairs, tile: gl.constexpr):
    """Join the pairs of bits that a lane has, and those of the four lanes of a pixel."""
    places = gl.expand_dims(even_channels(tile), 0).to(gl.uint32)
    words = gl.reduce_or(pairs << places, axis=2)
    words = words | _exchanged(words, "1")
    return words | _exchanged(words, "2")


@gluon.jit
def _exchanged(words, LANES_APART: gl.constexpr):
    """The words of the lane whose number has one other bit."""
    return gl.inline_asm_elementwise(
        "shfl.sync.bfly.b32 $0, $1, " + LANES_APART + ", 31, -1;",
        "=r,r",
        [words],
        dtype=gl.uint32,
        is_pure=True,
        pack=1,
    )


@gluon.jit
def store_words(
    words,
    pixel,
    inside,
    group,
    y,
    groups,
    PLANES: gl.constexpr,
    tile: gl.constexpr,
):
    """Store planes of codes of some pixels and groups.

    Args:
      words: from `code_words`.
      pixel: numbers of pixels of the output, int64 [BLOCKS, 1 or GROUPS, 32].
      inside: which of them are in the image, of the same rank.
      group: numbers of words of a pixel, [1, GROUPS, 1].
      y: the output.
      groups: words of a pixel.
      PLANES: of codes.
      tile: the layout.
    """
    of_words: gl.constexpr = gl.SliceLayout(2, tile)
    lane = gl.arange(0, 32, layout=gl.SliceLayout(0, gl.SliceLayout(1, of_words)))
    lane = gl.expand_dims(gl.expand_dims(lane, 0), 1)
    at = y + (pixel * (PLANES * groups) + group)
    for plane in gl.static_range(PLANES):
        gl.store(at + plane * groups, words[plane], mask=inside & (lane % 4 == 0))


@gluon.jit
def groups_of_words(first, GROUPS: gl.constexpr, tile: gl.constexpr):
    """Numbers of groups of a warp's words, [1, GROUPS, 1]."""
    of_words: gl.constexpr = gl.SliceLayout(2, tile)
    group = first + gl.arange(0, GROUPS, layout=gl.SliceLayout(0, gl.SliceLayout(2, of_words)))
    return gl.expand_dims(gl.expand_dims(group, 0), 2)
