# pyrefly: ignore-errors
"""3x3 convolution of pixel-packed planes: work grows with the number of non-zero weights.

Shape letters: B H W, P planes of activations, C and K channels, N = ceil(W/32) words of a row,
G groups of O outputs, L lists of E entries, T thresholds.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from triton_kernels.bitsliced_counting import code_planes, valid_bits
from triton_kernels.bitsliced_tiles import Tile, fitting
from triton_kernels.launch import Launch, cdiv
from triton_kernels.places import words_of_tile


@gluon.jit
def bitsliced_conv3x3_kernel(
    x,
    lists,
    numbers,
    constants,
    height,
    width,
    plane_step,
    channels,
    entries,
    y,
    PLANES: gl.constexpr,
    LISTS: gl.constexpr,
    BITS: gl.constexpr,
    OUTPUTS: gl.constexpr,
    VECTOR: gl.constexpr,
):
    """One tile of words of one image and one group of outputs a program.

    Args:
      x: [B, P, C + 1, 3, H + 2, N] uint32: every plane in three copies, of which copy j holds in
        column c what stands in column c + j - 1, with a row of zeros above and below; then zeros.
      lists: [G, O, L, E] int32, from `bitsliced_lists_kernel`.
      numbers: [G, O, L] int32, entries of the lists, rounded up to multiples of 16.
      constants: [T, G, O] int32, as `code_planes` takes them.
      height: H.
      width: W.
      plane_step: 3 (C + 1) (H + 2) N.
      channels: K.
      entries: E.
      y: [B, P, K, H, N] uint32.
      PLANES: P.
      LISTS: L.
      BITS: slices of a counter.
      OUTPUTS: O, the warps of the program.
      VECTOR: words that a thread loads at once, a divisor of N.
    """
    WORDS: gl.constexpr = 32 * VECTOR
    tile: gl.constexpr = gl.BlockedLayout([1, VECTOR], [1, 32], [OUTPUTS, 1], [1, 0])
    words_of_row = gl.cdiv(width, 32)
    words = height * words_of_row
    if VECTOR > 1:
        words = gl.multiple_of(words, VECTOR)
    groups = gl.cdiv(channels, OUTPUTS)
    block = gl.program_id(0)
    group = block % groups
    block = block // groups
    tiles = gl.cdiv(words, WORDS)
    image = (block // tiles).to(gl.int64)

    word, somewhere = words_of_tile(block % tiles, words, VECTOR, tile)
    codes = code_planes(
        x + image * PLANES * plane_step + somewhere,
        plane_step,
        lists,
        numbers,
        constants,
        group * OUTPUTS,
        groups * OUTPUTS,
        entries,
        PLANES,
        LISTS,
        BITS,
        OUTPUTS,
        VECTOR,
        tile,
    )

    output = group * OUTPUTS + gl.arange(0, OUTPUTS, layout=gl.SliceLayout(1, tile))
    first_pixel = gl.expand_dims(word % words_of_row * 32, 0)
    there = gl.expand_dims(word < words, 0) & gl.expand_dims(output < channels, 1)
    for plane in gl.static_range(PLANES):
        at = y + gl.expand_dims(((image * PLANES + plane) * channels + output) * words, 1)
        bits = valid_bits(codes[plane], first_pixel, width)
        gl.store(at + gl.expand_dims(word, 0), bits, mask=there)


def launch(
    y: tuple[int, ...], *, width: int, plane_step: int, entries: int, lists: int, bits: int,
    tile: Tile,
) -> Launch:  # fmt: skip
    """Launch `bitsliced_conv3x3_kernel` with arrays (x, lists, numbers, constants), giving y.

    Args:
      y: shape of the result, B, P, K, H and N.
      width: W.
      plane_step: words of x between the planes of a code's two bits.
      entries: E.
      lists: L.
      bits: slices of a counter.
      tile: of a program, with fewer words of a thread where they do not fit.

    Returns:
      The launch.
    """
    batch, planes, channels, height, words = y
    tile = fitting(tile, slices=bits, lists=lists)
    tiles = batch * cdiv(height * words, 32 * tile.vector)
    return Launch(
        kernel=bitsliced_conv3x3_kernel,
        blocks=tiles * cdiv(channels, tile.outputs),
        sizes={
            "height": height,
            "width": width,
            "plane_step": plane_step,
            "channels": channels,
            "entries": entries,
        },
        constants={"PLANES": planes, "LISTS": lists, "BITS": bits, **tile.constants},
        warps=tile.outputs,
        registers=128,
    )
