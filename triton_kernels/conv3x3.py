# pyrefly: ignore-errors
"""3x3 convolution of channel-packed words: implicit GEMM, thresholds and packing in one kernel.

Shape letters: B H W, P planes of activations, N words of input channels, G groups of 32 output
channels, T thresholds, S planes of weights, C words of a chunk.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from triton_kernels.counting import agreeing, code_words, popcount3
from triton_kernels.launch import Launch
from triton_kernels.places import pixels_of_tile, tile_of_image
from triton_kernels.tiles import Tile


@gluon.jit
def conv3x3_kernel(
    x,
    weights,
    least,
    height,
    width,
    groups,
    y,
    WORDS: gl.constexpr,
    PLANES: gl.constexpr,
    WEIGHT_PLANES: gl.constexpr,
    ROWS: gl.constexpr,
    COLUMNS: gl.constexpr,
    CHUNK: gl.constexpr,
    WARPS: gl.constexpr,
):
    """One tile of pixels of one image and one group of 32 output channels a program.

    Args:
      x: [B, H, W, P, N] uint32.
      weights: [G, 3, N/C, 3, S, 32, C] uint32: row of the kernel, chunk, column of the kernel.
        S is 1 in a binary layer (positive), 2 in a masked one (positive, negative), and 4 with
        powers of two (and the two planes of the exponent).
      least: [T, G, 32] int32, compared with the number of agreements; in a binary layer with the
        number of disagreements, negated.
      height: H.
      width: W.
      groups: G.
      y: [B, H, W, P, G] uint32.
      WORDS: N.
      PLANES: P.
      WEIGHT_PLANES: S.
      ROWS: of the tile.
      COLUMNS: of the tile.
      CHUNK: C, which divides N.
      WARPS: of the program.
    """
    PIXELS: gl.constexpr = ROWS * COLUMNS
    WORDS_OF_PIXEL: gl.constexpr = PLANES * WORDS
    tile: gl.constexpr = gl.BlockedLayout([1, 1, CHUNK], [4, 8, 1], [WARPS, 1, 1], [2, 1, 0])
    of_pixels: gl.constexpr = gl.SliceLayout(1, tile)
    of_channels: gl.constexpr = gl.SliceLayout(0, tile)
    counted: gl.constexpr = gl.SliceLayout(2, tile)

    block = gl.program_id(0)
    group = block % groups
    block = block // groups
    top, left, first_pixel = tile_of_image(block, height, width, ROWS, COLUMNS)

    row, column = pixels_of_tile(top, left, ROWS, COLUMNS, gl.SliceLayout(1, of_pixels))
    channel = gl.arange(0, 32, layout=gl.SliceLayout(1, of_channels))
    a_word = gl.arange(0, CHUNK, layout=gl.SliceLayout(0, of_pixels))
    w_word = gl.arange(0, CHUNK, layout=gl.SliceLayout(0, of_channels))
    w_at = weights + group.to(gl.int64) * (9 * WEIGHT_PLANES * 32 * WORDS)
    w_at += gl.expand_dims(channel * CHUNK, 1) + gl.expand_dims(w_word, 0)

    counts = gl.full([PIXELS, 32], 0, gl.int32, layout=counted)
    for i in range(3):
        source = row + i - 1
        inside = (source >= 0) & (source < height)
        insides = (
            inside & (column > 0) & (column <= width),
            inside & (column < width),
            inside & (column < width - 1),
        )
        at = first_pixel + source.to(gl.int64) * width + column
        a_at = x + (gl.expand_dims(at * WORDS_OF_PIXEL, 1) + gl.expand_dims(a_word, 0))
        for _ in range(0, WORDS, CHUNK):
            p = _weights(w_at, 0, WEIGHT_PLANES, CHUNK)
            if WEIGHT_PLANES > 1:
                n = _weights(w_at, 1, WEIGHT_PLANES, CHUNK)
            if WEIGHT_PLANES > 2:
                double = _weights(w_at, 2, WEIGHT_PLANES, CHUNK)
                quadruple = _weights(w_at, 3, WEIGHT_PLANES, CHUNK)
            for plane in gl.static_range(PLANES):
                a = _activations(a_at + plane * WORDS, insides, WORDS_OF_PIXEL)
                if WEIGHT_PLANES == 1:
                    counts += _sum(a[0] ^ p[0], a[1] ^ p[1], a[2] ^ p[2]) << plane
                else:
                    g0 = agreeing(a[0], p[0], n[0])
                    g1 = agreeing(a[1], p[1], n[1])
                    g2 = agreeing(a[2], p[2], n[2])
                    count = _sum(g0, g1, g2)
                    if WEIGHT_PLANES == 4:
                        count += _sum(g0 & double[0], g1 & double[1], g2 & double[2])
                        count += 3 * _sum(g0 & quadruple[0], g1 & quadruple[1], g2 & quadruple[2])
                    counts += count << plane
            a_at += CHUNK
            w_at += 3 * WEIGHT_PLANES * 32 * CHUNK

    if WEIGHT_PLANES == 1:
        counts = -counts
    channel = gl.arange(0, 32, layout=gl.SliceLayout(0, counted))
    words = code_words(counts, least + group * 32 + channel, groups * 32, PLANES)
    row, column = pixels_of_tile(top, left, ROWS, COLUMNS, gl.SliceLayout(1, counted))
    y += (first_pixel + row.to(gl.int64) * width + column) * (PLANES * groups) + group
    for plane in gl.static_range(PLANES):
        gl.store(y + plane * groups, words[plane], mask=(row < height) & (column < width))


@gluon.jit
def _activations(at, insides, WORDS_OF_PIXEL: gl.constexpr):
    """Three neighbours, [pixels, 1, C] each; outside the image bits are 0, the lowest level."""
    return (
        gl.expand_dims(gl.load(at - WORDS_OF_PIXEL, gl.expand_dims(insides[0], 1), other=0), 1),
        gl.expand_dims(gl.load(at, gl.expand_dims(insides[1], 1), other=0), 1),
        gl.expand_dims(gl.load(at + WORDS_OF_PIXEL, gl.expand_dims(insides[2], 1), other=0), 1),
    )


@gluon.jit
def _weights(at, PLANE: gl.constexpr, WEIGHT_PLANES: gl.constexpr, CHUNK: gl.constexpr):
    """One plane of three columns of the kernel, [1, 32, C] each."""
    at += PLANE * 32 * CHUNK
    step: gl.constexpr = WEIGHT_PLANES * 32 * CHUNK
    return (
        gl.expand_dims(gl.load(at), 0),
        gl.expand_dims(gl.load(at + step), 0),
        gl.expand_dims(gl.load(at + 2 * step), 0),
    )


@gluon.jit
def _sum(a, b, c):
    """Bits set in three tiles of words, [pixels, 32] int32."""
    return gl.sum(popcount3(a, b, c), axis=2)


def launch(x: tuple[int, ...], *, weight_planes: int, groups: int, tile: Tile) -> Launch:
    """Launch `conv3x3_kernel` with arrays (x, weights, least), giving y.

    Args:
      x: shape, B, H, W, P and N.
      weight_planes: S.
      groups: G.
      tile: of a program; the weights are arranged for its chunk.

    Returns:
      The launch.
    """
    batch, height, width, planes, words = x
    return Launch(
        kernel=conv3x3_kernel,
        blocks=tile.covering(batch, height, width) * groups,
        sizes={"height": height, "width": width, "groups": groups},
        constants={
            "WORDS": words,
            "PLANES": planes,
            "WEIGHT_PLANES": weight_planes,
            **tile.constants,
        },
        warps=tile.warps,
        registers=tile.registers,
    )
