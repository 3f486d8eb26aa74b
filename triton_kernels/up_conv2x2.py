# pyrefly: ignore-errors
"""2x2 transposed convolution with stride 2 of channel-packed words: four 1x1 convolutions.

Shape letters: B H W of the input, P planes of activations, N words of input channels, G groups of
32 output channels, T thresholds, S planes of weights, C words of a chunk.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from triton_kernels.counting import agreeing, code_words, popcount
from triton_kernels.launch import Launch
from triton_kernels.places import pixels_of_tile, tile_of_batch
from triton_kernels.tiles import Tile


@gluon.jit
def up_conv2x2_kernel(
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
    """One tile of pixels, one tap and one group of 32 output channels a program.

    Args:
      x: [B, H, W, P, N] uint32.
      weights: [2, 2, G, N/C, S, 32, C] uint32, planes as those of `conv3x3_kernel`.
      least: [T, 2, 2, G, 32] int32, compared with the number of agreements; in a binary layer with
        the number of disagreements, negated.
      height: B H: rows of all images follow each other.
      width: W.
      groups: G.
      y: [B, 2H, 2W, P, G] uint32.
      WORDS: N.
      PLANES: P.
      WEIGHT_PLANES: S.
      ROWS: of the tile.
      COLUMNS: of the tile.
      CHUNK: C, which divides N.
      WARPS: of the program.
    """
    PIXELS: gl.constexpr = ROWS * COLUMNS
    tile: gl.constexpr = gl.BlockedLayout([1, 1, CHUNK], [4, 8, 1], [WARPS, 1, 1], [2, 1, 0])
    of_pixels: gl.constexpr = gl.SliceLayout(1, tile)
    of_channels: gl.constexpr = gl.SliceLayout(0, tile)
    counted: gl.constexpr = gl.SliceLayout(2, tile)

    block = gl.program_id(0)
    tap_group = block % (4 * groups)
    block = block // (4 * groups)
    top, left = tile_of_batch(block, width, ROWS, COLUMNS)

    row, column = pixels_of_tile(top, left, ROWS, COLUMNS, gl.SliceLayout(1, of_pixels))
    inside = gl.expand_dims((row < height) & (column < width), 1)
    channel = gl.arange(0, 32, layout=gl.SliceLayout(1, of_channels))
    a_word = gl.arange(0, CHUNK, layout=gl.SliceLayout(0, of_pixels))
    w_word = gl.arange(0, CHUNK, layout=gl.SliceLayout(0, of_channels))
    at = row.to(gl.int64) * width + column
    a_at = x + (gl.expand_dims(at * (PLANES * WORDS), 1) + gl.expand_dims(a_word, 0))
    w_at = weights + tap_group.to(gl.int64) * (WEIGHT_PLANES * 32 * WORDS)
    w_at += gl.expand_dims(channel * CHUNK, 1) + gl.expand_dims(w_word, 0)

    counts = gl.full([PIXELS, 32], 0, gl.int32, layout=counted)
    for _ in range(0, WORDS, CHUNK):
        for plane in gl.static_range(PLANES):
            a = gl.expand_dims(gl.load(a_at + plane * WORDS, inside, other=0), 1)
            p = _weights(w_at, 0, CHUNK)
            if WEIGHT_PLANES == 1:
                counts += gl.sum(popcount(a ^ p), axis=2) << plane
            else:
                agree = agreeing(a, p, _weights(w_at, 1, CHUNK))
                count = popcount(agree)
                if WEIGHT_PLANES == 4:
                    count += popcount(agree & _weights(w_at, 2, CHUNK))
                    count += 3 * popcount(agree & _weights(w_at, 3, CHUNK))
                counts += gl.sum(count, axis=2) << plane
        a_at += CHUNK
        w_at += WEIGHT_PLANES * 32 * CHUNK
    if WEIGHT_PLANES == 1:
        counts = -counts

    channel = gl.arange(0, 32, layout=gl.SliceLayout(0, counted))
    words = code_words(counts, least + tap_group * 32 + channel, 4 * groups * 32, PLANES)
    row, column = pixels_of_tile(top, left, ROWS, COLUMNS, gl.SliceLayout(1, counted))
    tap = tap_group // groups
    at = (2 * row.to(gl.int64) + tap // 2) * (2 * width) + 2 * column + tap % 2
    y += at * (PLANES * groups) + tap_group % groups
    for plane in gl.static_range(PLANES):
        gl.store(y + plane * groups, words[plane], mask=(row < height) & (column < width))


@gluon.jit
def _weights(at, PLANE: gl.constexpr, CHUNK: gl.constexpr):
    return gl.expand_dims(gl.load(at + PLANE * 32 * CHUNK), 0)


def launch(x: tuple[int, ...], *, weight_planes: int, groups: int, tile: Tile) -> Launch:
    """Launch `up_conv2x2_kernel` with arrays (x, weights, least), giving y.

    Args:
      x: shape, B, H, W, P and N.
      weight_planes: S.
      groups: G.
      tile: of a program; the weights are arranged for its chunk.

    Returns:
      The launch.
    """
    batch, height, width, planes, words = x
    rows = batch * height
    return Launch(
        kernel=up_conv2x2_kernel,
        blocks=tile.covering(1, rows, width) * 4 * groups,
        sizes={"height": rows, "width": width, "groups": groups},
        constants={
            "WORDS": words,
            "PLANES": planes,
            "WEIGHT_PLANES": weight_planes,
            **tile.constants,
        },
        warps=tile.warps,
        registers=tile.registers,
    )
