# pyrefly: ignore-errors
"""2x2 transposed convolution with stride 2 of pixel-packed planes.

Shape letters: B H W of the input, P planes of activations, C and K channels, N = ceil(W/32) words
of a row, G groups of O outputs, L lists of E entries, T thresholds.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from triton_kernels.bitsliced_counting import code_planes, valid_bits
from triton_kernels.bitsliced_tiles import Tile, fitting
from triton_kernels.launch import Launch, cdiv
from triton_kernels.places import words_of_tile


@gluon.jit
def bitsliced_up_conv2x2_kernel(
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
    """One tile of words of one image, one group of outputs and one row of the kernel a program.

    Args:
      x: [B, P, C + 1, H, N] uint32, zeros in the last channel.
      lists: [2, 2, G, O, L, E] int32, from `bitsliced_lists_kernel`.
      numbers: [2, 2, G, O, L] int32, entries of the lists, rounded up to multiples of 16.
      constants: [T, 2, 2, G, O] int32, as `code_planes` takes them.
      height: H.
      width: W.
      plane_step: (C + 1) H N.
      channels: K.
      entries: E.
      y: [B, P, K, 2H, ceil(2W/32)] uint32.
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
    kernel_row = block % 2
    block = block // 2
    tiles = gl.cdiv(words, WORDS)
    image = (block // tiles).to(gl.int64)

    word, somewhere = words_of_tile(block % tiles, words, VECTOR, tile)
    columns = ()
    for kernel_column in gl.static_range(2):
        of_group = (2 * kernel_row + kernel_column) * groups + group
        codes = code_planes(
            x + image * PLANES * plane_step + somewhere,
            plane_step,
            lists,
            numbers,
            constants,
            of_group * OUTPUTS,
            4 * groups * OUTPUTS,
            entries,
            PLANES,
            LISTS,
            BITS,
            OUTPUTS,
            VECTOR,
            tile,
        )
        columns += (codes,)

    out_words_of_row = gl.cdiv(2 * width, 32)
    out_word = gl.expand_dims(word % words_of_row * 2, 0)
    row = gl.expand_dims(2 * (word // words_of_row) + kernel_row, 0)
    channel = group * OUTPUTS + gl.arange(0, OUTPUTS, layout=gl.SliceLayout(1, tile))
    there = gl.expand_dims(word < words, 0) & gl.expand_dims(channel < channels, 1)
    for plane in gl.static_range(PLANES):
        first = ((image * PLANES + plane) * channels + channel) * (2 * height * out_words_of_row)
        out = y + gl.expand_dims(first, 1) + row * out_words_of_row + out_word
        even, odd = columns[0][plane], columns[1][plane]
        for half in gl.static_range(2):
            bits = _interleaved(even >> (16 * half), odd >> (16 * half))
            # Where there is no second word, its bits are nobody's.
            bits = valid_bits(bits, 32 * (out_word + half), 2 * width)
            gl.store(out + half, bits, mask=there & (out_word + half < out_words_of_row))


@gluon.jit
def _interleaved(even, odd):
    """Lower halves of two words, bit by bit in turn."""
    return _spread(even) | (_spread(odd) << 1)


@gluon.jit
def _spread(words):
    words = words & 0xFFFF
    words = (words | (words << 8)) & 0x00FF00FF
    words = (words | (words << 4)) & 0x0F0F0F0F
    words = (words | (words << 2)) & 0x33333333
    return (words | (words << 1)) & 0x55555555


def launch(
    x: tuple[int, ...], *, channels: int, width: int, entries: int, lists: int, bits: int,
    tile: Tile,
) -> Launch:  # fmt: skip
    """Launch `bitsliced_up_conv2x2_kernel` with arrays (x, lists, numbers, constants), giving y.

    Args:
      x: shape, B, P, C + 1, H and N.
      channels: K.
      width: W.
      entries: E.
      lists: L.
      bits: slices of a counter.
      tile: of a program, with fewer words of a thread where they do not fit.

    Returns:
      The launch.
    """
    batch, planes, inputs, height, words = x
    tile = fitting(tile, slices=bits, lists=lists)
    tiles = batch * cdiv(height * words, 32 * tile.vector)
    return Launch(
        kernel=bitsliced_up_conv2x2_kernel,
        blocks=tiles * 2 * cdiv(channels, tile.outputs),
        sizes={
            "height": height,
            "width": width,
            "plane_step": inputs * height * words,
            "channels": channels,
            "entries": entries,
        },
        constants={"PLANES": planes, "LISTS": lists, "BITS": bits, **tile.constants},
        warps=tile.outputs,
        registers=128,
    )
