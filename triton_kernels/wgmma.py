# pyrefly: ignore-errors
"""Products of one-bit matrices by warpgroups (`wgmma`), with both factors in shared memory.

A warpgroup multiplies 64 pixels by all output channels of its program, 256 bits of K at a time.
Shared memory holds pieces of 16 bytes: four words of a pixel, or of an output channel. Pieces of
eight pixels that follow each other are what the PTX ISA calls a core matrix, wherever the first of
them lies. So one tile of pixels serves all taps of a convolution, each of which is another address
to begin at. The two pieces along K that an instruction takes may be any two, because its descriptor
says how far they are apart.

In a masked layer a pixel has pieces of its words and pieces of their complements; with two words or
fewer, one piece of both. In a binary layer 16 more channels, of ones, count the bits of the pixels
alone.

A slab is the stretch of K that is in shared memory. While it is multiplied the next one's weights
are copied there asynchronously, and the words of its pixels are loaded to registers.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared

from triton_kernels.wgmma_instructions import (
    copies,
    products,
    products_with,
    stores,
    stores_of_ones,
    tied,
)


@gluon.constexpr_function
def counts_layout(WARPGROUPS, GROUPS):
    """Where counts [64 * WARPGROUPS, GROUPS, 32] are: the registers of an instruction, in order."""
    registers = [[0, 0, 1], [8, 0, 0], [0, 0, 8], [0, 0, 16]]
    registers += [[0, 1 << i, 0] for i in range(GROUPS.bit_length() - 1)]
    lanes = [[0, 0, 2], [0, 0, 4], [1, 0, 0], [2, 0, 0], [4, 0, 0]]
    warps = [[16 << i, 0, 0] for i in range((4 * WARPGROUPS).bit_length() - 1)]
    return gl.DistributedLinearLayout(registers, lanes, warps, [], [64 * WARPGROUPS, GROUPS, 32])


@gluon.constexpr_function
def _ones_layout(WARPGROUPS):
    """Where the 16 columns of products with ones are."""
    registers, lanes = [[0, 1], [8, 0], [0, 8]], [[0, 2], [0, 4], [1, 0], [2, 0], [4, 0]]
    warps = [[16 << i, 0] for i in range((4 * WARPGROUPS).bit_length() - 1)]
    return gl.DistributedLinearLayout(registers, lanes, warps, [], [64 * WARPGROUPS, 16])


@gluon.constexpr_function
def slots_layout(WARPGROUPS, SLAB_WORDS):
    """Where words [128 * WARPGROUPS, SLAB_WORDS] of a tile are loaded: a pixel to a thread."""
    return gl.BlockedLayout([1, SLAB_WORDS], [32, 1], [4 * WARPGROUPS, 1], [1, 0])


@gluon.jit
def counted(
    x,
    at,
    inside,
    weights,
    TAPS: gl.constexpr,
    WORDS: gl.constexpr,
    PLANES: gl.constexpr,
    FACTORS: gl.constexpr,
    SLAB_WORDS: gl.constexpr,
    COLUMNS: gl.constexpr,
    WARPGROUPS: gl.constexpr,
    GROUPS: gl.constexpr,
):
    """Count bits over all taps and words; planes weigh by their powers of two.

    Args:
      x: pointer to the first word of a pixel.
      at: how far from there the words of the tile's pixels begin, int32 [128 * WARPGROUPS], row
        after row with a border of a pixel around, or without one where there is one tap.
      inside: which of them are in the image.
      weights: pointer to those of the first group of channels, [GROUPS, slabs, steps, 2, 32, 4].
      TAPS: 9 or 1.
      WORDS: of a plane of a pixel.
      PLANES: of activations.
      FACTORS: words of weights that a word of activations meets: 1 in a binary layer, else 2.
      SLAB_WORDS: words of a pixel that a slab takes: a multiple of 4, or 2 in a masked layer.
      COLUMNS: of the tile, 8, 16 or 32.
      WARPGROUPS: 1, 2 or 4, each with 8x8 pixels, or 64 that follow each other where there is one
        tap.
      GROUPS: of 32 output channels: 1, 2 or 4.

    Returns:
      int32 [64 * WARPGROUPS, GROUPS, 32]: the bits of a & p and ~a & n in a masked layer, and
      2 (a & p) - a in a binary one.
    """
    PIECES: gl.constexpr = FACTORS * SLAB_WORDS // 4
    SLABS: gl.constexpr = (WORDS + SLAB_WORDS - 1) // SLAB_WORDS
    STEPS: gl.constexpr = (PIECES * TAPS + 1) // 2
    TILE_ROWS: gl.constexpr = 64 * WARPGROUPS // COLUMNS
    SLOTS: gl.constexpr = (TILE_ROWS + 2) * (COLUMNS + 2) if TAPS == 9 else 64 * WARPGROUPS
    CHANNELS: gl.constexpr = 32 * GROUPS + (16 if FACTORS == 1 else 0)
    linear: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    pixels_layout: gl.constexpr = slots_layout(WARPGROUPS, SLAB_WORDS)

    pixels = gl.allocate_shared_memory(gl.int32, [2 * PIECES * SLOTS, 4], linear)
    factors = gl.allocate_shared_memory(gl.int32, [2 * 2 * STEPS * CHANNELS, 4], linear)
    if FACTORS == 1:
        gl.inline_asm(
            stores_of_ones(STEPS, PIECES * TAPS % 2, GROUPS, WARPGROUPS),
            "r",
            [factors],
            is_pure=False,
        )
    slot = gl.arange(0, 128 * WARPGROUPS, layout=gl.SliceLayout(1, pixels_layout))
    word = gl.arange(0, SLAB_WORDS, layout=gl.SliceLayout(0, pixels_layout))
    word = gl.expand_dims(word, 0)
    x += gl.expand_dims(at, 1) + word
    inside = gl.expand_dims(inside, 1)

    _copy(weights, factors, 0, 1, STEPS, SLABS, FACTORS, GROUPS, WARPGROUPS)
    words = _loaded(x + (PLANES - 1) * WORDS, inside, word, 0, WORDS, SLAB_WORDS)
    _store(words, pixels, slot, 0, SLOTS, FACTORS, SLAB_WORDS)

    counts = gl.full(
        [64 * WARPGROUPS, GROUPS, 32], 0, gl.int32, layout=counts_layout(WARPGROUPS, GROUPS)
    )
    ones = gl.full([64 * WARPGROUPS, 16], 0, gl.int32, layout=_ones_layout(WARPGROUPS))
    for plane in gl.static_range(PLANES - 1, -1, -1):
        if plane < PLANES - 1:
            counts = 2 * counts
            ones = 2 * ones
        for slab in range(SLABS):
            number = (PLANES - 1 - plane) * SLABS + slab
            gl.inline_asm("cp.async.wait_all;", "", [], is_pure=False)
            fence_async_shared()
            gl.barrier()

            more = number + 1 < PLANES * SLABS
            last = slab + 1 == SLABS
            next_slab = gl.where(last, 0, slab + 1)
            next_plane = gl.where(last, plane - 1, plane)
            after = (number + 1) % 2
            next_weights = weights + next_slab * (STEPS * 2 * 32 * 4)
            _copy(next_weights, factors, after, more, STEPS, SLABS, FACTORS, GROUPS, WARPGROUPS)
            offset = next_plane * WORDS + next_slab * SLAB_WORDS
            words = _loaded(x + offset, inside & more, word, next_slab, WORDS, SLAB_WORDS)
            counts, ones = _multiplied(
                pixels,
                factors,
                number % 2,
                counts,
                ones,
                TAPS,
                FACTORS,
                PIECES,
                COLUMNS,
                WARPGROUPS,
                GROUPS,
            )
            _store(words, pixels, slot, after, SLOTS, FACTORS, SLAB_WORDS)
            counts, ones = _finished(counts, ones, FACTORS, GROUPS)
    if FACTORS == 1:
        counts = 2 * counts - _of_channels(ones, counts)
    return counts


@gluon.jit
def _copy(
    weights,
    factors,
    buffer,
    more,
    STEPS: gl.constexpr,
    SLABS: gl.constexpr,
    FACTORS: gl.constexpr,
    GROUPS: gl.constexpr,
    WARPGROUPS: gl.constexpr,
):
    """Begin to copy a slab's weights to shared memory, if there are more."""
    gl.inline_asm(
        copies(STEPS, SLABS, FACTORS, GROUPS, WARPGROUPS),
        "r,l,r,r",
        [factors, weights.to(gl.int64, bitcast=True), buffer, gl.to_tensor(more).to(gl.int32)],
        is_pure=False,
    )


@gluon.jit
def _loaded(at, inside, word, slab, WORDS: gl.constexpr, SLAB_WORDS: gl.constexpr):
    """Words of a slab; outside the image bits are 0, the lowest level."""
    if WORDS % SLAB_WORDS:
        inside = inside & (word < WORDS - slab * SLAB_WORDS)
    return gl.load(at, inside, 0)


@gluon.jit
def _store(
    words,
    pixels,
    slot,
    buffer,
    SLOTS: gl.constexpr,
    FACTORS: gl.constexpr,
    SLAB_WORDS: gl.constexpr,
):
    """Store a slab's pieces of all pixels of a tile."""
    gl.inline_asm(
        stores(SLOTS, FACTORS, SLAB_WORDS),
        ("r", "r", "r", "r"),
        [pixels, buffer, slot, words],
        is_pure=False,
    )


@gluon.jit
def _multiplied(
    pixels,
    factors,
    buffer,
    counts,
    ones,
    TAPS: gl.constexpr,
    FACTORS: gl.constexpr,
    PIECES: gl.constexpr,
    COLUMNS: gl.constexpr,
    WARPGROUPS: gl.constexpr,
    GROUPS: gl.constexpr,
):
    """Begin to add a slab's products to counts; only `_finished` may take these."""
    text: gl.constexpr = products(TAPS, FACTORS, PIECES, COLUMNS, WARPGROUPS, GROUPS)
    operands: gl.constexpr = products_with(FACTORS, GROUPS)
    if FACTORS == 1:
        counts, ones = gl.inline_asm(
            text,
            operands,
            [pixels, factors, buffer, counts, ones],
            [counts.type, ones.type],
            is_pure=False,
        )
    else:
        counts = gl.inline_asm(
            text, operands, [pixels, factors, buffer, counts], counts.type, is_pure=False
        )
    return counts, ones


@gluon.jit
def _finished(counts, ones, FACTORS: gl.constexpr, GROUPS: gl.constexpr):
    """Wait for products."""
    text: gl.constexpr = "wgmma.wait_group.sync.aligned 0;"
    if FACTORS == 1:
        counts, ones = gl.inline_asm(
            text, tied(FACTORS, GROUPS), [counts, ones], [counts.type, ones.type], is_pure=False
        )
    else:
        counts = gl.inline_asm(text, tied(FACTORS, GROUPS), [counts], counts.type, is_pure=False)
    return counts, ones


@gluon.jit
def _of_channels(ones, counts):
    """A column of ones for all channels, [pixels, 1, 1]; a thread has some of its columns."""
    layout: gl.constexpr = gl.SliceLayout(1, gl.SliceLayout(2, counts.type.layout))
    column = gl.inline_asm(
        "mov.b32 $0, $2; mov.b32 $1, $4;",
        ("=&r", "r"),
        [ones],
        gl.distributed_type(gl.int32, [counts.shape[0]], layout),
        is_pure=True,
    )
    return gl.expand_dims(gl.expand_dims(column, 1), 2)
