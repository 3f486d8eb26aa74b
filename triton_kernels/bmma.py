# pyrefly: ignore-errors
"""Products of one-bit matrices on Tensor Cores.

A warp multiplies 16 pixels by 8 output channels at a time. The axes of a tile are blocks of 16
pixels, groups of 32 output channels, the 4 blocks of 8 channels in each, and the 32 lanes, which
the PTX ISA's tables number `4 * g + t`. Lane (g, t) holds words of pixels g and g + 8, "upper" and
"lower", and words of channel g, and counts channels 2t and 2t + 1, "even" and "odd".

Where a word stands along K is free as long as both factors agree, so lane t takes words 2t and
2t + 1 of 8 and loads them at once.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from triton_kernels.bmma_lanes import fragments_of_lanes, groups_of_warps, words_of_lanes


@gluon.jit
def counted(
    x,
    weights,
    top,
    left,
    first_group,
    height,
    width,
    TAPS: gl.constexpr,
    WORDS: gl.constexpr,
    PLANES: gl.constexpr,
    FACTORS: gl.constexpr,
    EXPONENTS: gl.constexpr,
    AND: gl.constexpr,
    MMA_ROWS: gl.constexpr,
    LANE_WORDS: gl.constexpr,
    COLUMNS: gl.constexpr,
    BLOCKS: gl.constexpr,
    GROUPS: gl.constexpr,
    tile: gl.constexpr,
):
    """Count bits over all taps and words of a tile; planes weigh by their powers of two.

    Args:
      x: pointer to the first word of the tile.
      weights: pointer to those of all groups, [groups, EXPONENTS, steps, FACTORS, 4, 8, 4,
        LANE_WORDS].
      top: row of the tile's first pixel.
      left: column of the tile's first pixel.
      first_group: of output channels.
      height: of the image.
      width: of the image.
      TAPS: 9 or 1.
      WORDS: of a plane of a pixel.
      PLANES: of activations.
      FACTORS: words of weights that a word of activations meets: 1 in a binary layer, else 2.
      EXPONENTS: 3 with powers of two, each with planes of its own, else 1.
      AND: whether the product of bits is AND, else XOR.
      MMA_ROWS: of the instruction, 8 or 16.
      LANE_WORDS: 1 or 2; a step takes four times as many words of K.
      COLUMNS: of the tile.
      BLOCKS: of 16 pixels.
      GROUPS: of 32 output channels.
      tile: the layout.

    Returns:
      Even and odd counts of the upper, then of the lower pixels, int32 [BLOCKS, GROUPS, 4, 32].
      With weights v and w, by XOR the bits of a ^ v, and of a ^ w; by AND those of a & v, and of
      ~a & w; but 2 (a & v) - a, by AND, where there is v alone.
    """
    of_lanes: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(2, tile)))
    SLOTS: gl.constexpr = WORDS // LANE_WORDS
    STEPS: gl.constexpr = (TAPS * SLOTS + 3) // 4
    FRAGMENTS: gl.constexpr = 4 * 32 * LANE_WORDS
    GROUP_WORDS: gl.constexpr = EXPONENTS * STEPS * FACTORS * FRAGMENTS
    WITH_ONES: gl.constexpr = AND and FACTORS == 1

    row, column, upper = words_of_lanes(top, left, 0, width, PLANES * WORDS, COLUMNS, BLOCKS, tile)
    inside_upper = _insides(row, column, height, width, TAPS)
    row, column, lower = words_of_lanes(top, left, 1, width, PLANES * WORDS, COLUMNS, BLOCKS, tile)
    inside_lower = _insides(row, column, height, width, TAPS)
    group = groups_of_warps(first_group, GROUPS, tile)
    weights += group.to(gl.int64) * GROUP_WORDS + fragments_of_lanes(tile) * LANE_WORDS

    zero = gl.full([BLOCKS, GROUPS, 4, 32], 0, gl.int32, layout=tile)
    counts = (zero, zero, zero, zero)
    # The bits set in `a` alone are products with a channel of ones.
    zero = gl.full([BLOCKS, 1, 1, 32], 0, gl.int32, layout=tile)
    ones = (zero, zero, zero, zero)
    member = gl.arange(0, 32, layout=of_lanes) % 4
    # From the largest power of two to the smallest, doubling between them.
    for power in gl.static_range(PLANES + EXPONENTS - 2, -1, -1):
        if power < PLANES + EXPONENTS - 2:
            counts = (2 * counts[0], 2 * counts[1], 2 * counts[2], 2 * counts[3])
            ones = (2 * ones[0], 2 * ones[1], 2 * ones[2], 2 * ones[3])
        for plane in gl.static_range(PLANES):
            if power >= plane and power - plane < EXPONENTS:
                w_at = weights + (power - plane) * (STEPS * FACTORS * FRAGMENTS)
                for step in range(STEPS):
                    slot = step * 4 + member
                    tap = slot // SLOTS
                    offset = plane * WORDS + slot % SLOTS * LANE_WORDS
                    if TAPS == 9:
                        neighbour = (tap // 3 - 1) * width + (tap % 3 - 1)
                        offset += neighbour * (PLANES * WORDS)
                    offset = gl.expand_dims(offset, 0)
                    bit = gl.expand_dims(1 << tap, 0)
                    a_upper = _activations(x + (upper + offset), inside_upper & bit, LANE_WORDS)
                    a_lower = _activations(x + (lower + offset), inside_lower & bit, LANE_WORDS)
                    v = _weights(w_at, LANE_WORDS)
                    counts = _mma(counts, a_upper, a_lower, v, AND, MMA_ROWS, LANE_WORDS)
                    if WITH_ONES:
                        v = gl.full([1, 1, 1, 32], -1, a_upper.dtype, layout=tile)
                        ones = _mma(ones, a_upper, a_lower, v, AND, MMA_ROWS, LANE_WORDS)
                    if FACTORS == 2:
                        w = _weights(w_at + FRAGMENTS, LANE_WORDS)
                        if AND:
                            a_upper = ~a_upper
                            a_lower = ~a_lower
                        counts = _mma(counts, a_upper, a_lower, w, AND, MMA_ROWS, LANE_WORDS)
                    w_at += FACTORS * FRAGMENTS
    if WITH_ONES:
        counts = (
            2 * counts[0] - ones[0],
            2 * counts[1] - ones[1],
            2 * counts[2] - ones[2],
            2 * counts[3] - ones[3],
        )
    return counts


@gluon.jit
def _insides(row, column, height, width, TAPS: gl.constexpr):
    """Bit t is set where a pixel's neighbour at tap t is in the image."""
    if TAPS == 1:
        insides = ((row < height) & (column < width)).to(gl.int32)
    else:
        across = ((column > 0) & (column <= width)).to(gl.int32)
        across |= (column < width).to(gl.int32) << 1
        across |= (column < width - 1).to(gl.int32) << 2
        above = gl.where((row > 0) & (row <= height), across, 0)
        beside = gl.where(row < height, across << 3, 0)
        insides = above | beside | gl.where(row < height - 1, across << 6, 0)
    return insides


@gluon.jit
def _activations(at, inside, LANE_WORDS: gl.constexpr):
    """A lane's words, [BLOCKS, 1, 1, 32]; outside the image bits are 0, the lowest level."""
    words = gl.load(_lane_words(at, LANE_WORDS), inside != 0)
    # A load gives registers in another order than an instruction takes them; results of a choice
    # have the latter at once, where ptxas would move the words anew before every instruction.
    words = gl.where(inside != 0, words, 0)
    return gl.expand_dims(gl.expand_dims(words, 1), 2)


@gluon.jit
def _weights(at, LANE_WORDS: gl.constexpr):
    """A lane's words, [1, GROUPS, 4, 32]."""
    return gl.expand_dims(gl.load(_lane_words(at, LANE_WORDS)), 0)


@gluon.jit
def _lane_words(at, LANE_WORDS: gl.constexpr):
    if LANE_WORDS == 2:
        at = at.to(gl.pointer_type(gl.int64), bitcast=True)
    else:
        at = at.to(gl.pointer_type(gl.int32), bitcast=True)
    return at


@gluon.jit
def _mma(
    counts,
    upper,
    lower,
    channels,
    AND: gl.constexpr,
    MMA_ROWS: gl.constexpr,
    LANE_WORDS: gl.constexpr,
):
    """Add the bits set in products of pixels' and channels' words to four tiles of counts."""
    return gl.inline_asm_elementwise(
        _instructions(AND, MMA_ROWS, LANE_WORDS),
        _constraints(LANE_WORDS),
        [upper, lower, channels, counts[0], counts[1], counts[2], counts[3]],
        dtype=(gl.int32, gl.int32, gl.int32, gl.int32),
        is_pure=True,
        pack=1,
    )


@gluon.constexpr_function
def _instructions(AND, MMA_ROWS, LANE_WORDS):
    """One step: counts $0 to $3, words of upper pixels $4, of lower ones $5, of channels $6.

    An instruction of 8 rows takes a word of each lane and half of the pixels.
    """
    if LANE_WORDS == 1:
        lines = [".reg .b32 a<2>, b0;", "mov.b32 a0, $4; mov.b32 a1, $5; mov.b32 b0, $6;"]
    else:
        lines = [".reg .b32 a<4>, b<2>;", "mov.b64 {a0, a2}, $4; mov.b64 {a1, a3}, $5;"]
        lines += ["mov.b64 {b0, b1}, $6;"]
    form = "row.col.s32.b1.b1.s32." + ("and.popc" if AND else "xor.popc")
    if MMA_ROWS == 16:
        shape = "m16n8k256" if LANE_WORDS == 2 else "m16n8k128"
        a = ", ".join(f"a{i}" for i in range(2 * LANE_WORDS))
        b = ", ".join(f"b{i}" for i in range(LANE_WORDS))
        counts = "{$0, $1, $2, $3}"
        lines += [f"mma.sync.aligned.{shape}.{form} {counts}, {{{a}}}, {{{b}}}, {counts};"]
    else:
        for word in range(LANE_WORDS):
            for half, counts in enumerate(("{$0, $1}", "{$2, $3}")):
                factors = f"{{a{2 * word + half}}}, {{b{word}}}"
                lines += [f"mma.sync.aligned.m8n8k128.{form} {counts}, {factors}, {counts};"]
    return "{ " + " ".join(lines) + " }"


@gluon.constexpr_function
def _constraints(LANE_WORDS):
    words = "l" if LANE_WORDS == 2 else "r"
    return f"=&r,=&r,=&r,=&r,{words},{words},{words},0,1,2,3"
