"""PTX of the products of one-bit matrices by warpgroups; `triton_kernels.wgmma` says what is where.

A buffer of pixels is planes of pieces, a plane the pieces of all pixels of the tile. A buffer of
weights is steps, a step two halves, a half the pieces of all channels.
"""

from triton.experimental import gluon

PIECE = 16  # bytes


@gluon.constexpr_function
def copies(STEPS, SLABS, FACTORS, GROUPS, WARPGROUPS):
    """Copy a slab's weights: shared memory $0, weights $1, number of the buffer $2, whether $3.

    A thread copies pieces of one channel.
    """
    channels = _channels(FACTORS, GROUPS)
    at_once = 128 * WARPGROUPS // (32 * GROUPS)  # halves of steps
    lines = [
        ".reg .b32 t, half, channel, group, to; .reg .b64 from; .reg .pred p, q;",
        "mov.u32 t, %tid.x;",
        f"shr.u32 half, t, {(32 * GROUPS).bit_length() - 1};",
        f"and.b32 channel, t, {32 * GROUPS - 1};",
        f"mad.lo.u32 to, $2, {2 * STEPS * channels * PIECE}, $0;",
        f"mad.lo.u32 to, half, {channels * PIECE}, to;",
        f"mad.lo.u32 to, channel, {PIECE}, to;",
        "shr.u32 group, channel, 5;",
        "and.b32 channel, channel, 31;",
        f"mad.wide.u32 from, group, {SLABS * STEPS * 2 * 32 * PIECE}, $1;",
        f"mad.wide.u32 from, half, {32 * PIECE}, from;",
        f"mad.wide.u32 from, channel, {PIECE}, from;",
        "setp.ne.u32 p, $3, 0;",
    ]
    for first in range(0, 2 * STEPS, at_once):
        guard = "p"
        if first + at_once > 2 * STEPS:
            lines += [f"setp.lt.and.u32 q, half, {2 * STEPS - first}, p;"]
            guard = "q"
        to = f"[to + {first * channels * PIECE}]"
        lines += [
            f"@{guard} cp.async.cg.shared.global {to}, [from + {first * 32 * PIECE}], {PIECE};"
        ]
    return _block(lines)


@gluon.constexpr_function
def stores_of_ones(STEPS, ODD, GROUPS, WARPGROUPS):
    """Store the channels of ones of both buffers: shared memory $0.

    Of an odd number of pieces the last step takes one a second time, with weights that are 0.
    """
    channels, pieces = _channels(1, GROUPS), 2 * 2 * STEPS * 16
    lines = [".reg .b32 t, half, at, bits; .reg .pred p, idle;"]
    for first in range(0, pieces, 128 * WARPGROUPS):
        lines += [
            "mov.u32 t, %tid.x;",
            f"add.u32 t, t, {first};",
            f"setp.lt.u32 p, t, {pieces};",
            "shr.u32 half, t, 4;",
            "and.b32 t, t, 15;",
            f"mad.lo.u32 at, half, {channels * PIECE}, $0;",
            f"mad.lo.u32 at, t, {PIECE}, at;",
            f"rem.u32 half, half, {2 * STEPS};",
            f"setp.eq.u32 idle, half, {2 * STEPS - 2 if ODD else 2 * STEPS};",
            "selp.b32 bits, 0, -1, idle;",
            f"@p st.shared.v4.b32 [at + {32 * GROUPS * PIECE}], {{bits, bits, bits, bits}};",
        ]
    return _block(lines)


@gluon.constexpr_function
def stores(SLOTS, FACTORS, SLAB_WORDS):
    """Store a slab of pixels: shared memory $0, number of the buffer $1, slot $2, words from $3 on.

    A thread has the words of one pixel.
    """
    plane = SLOTS * PIECE
    lines = [
        f".reg .b32 at, n<{SLAB_WORDS}>; .reg .pred p;",
        f"setp.lt.u32 p, $2, {SLOTS};",
        f"mad.lo.u32 at, $1, {FACTORS * SLAB_WORDS // 4 * plane}, $0;",
        f"mad.lo.u32 at, $2, {PIECE}, at;",
    ]
    words = [f"${3 + i}" for i in range(SLAB_WORDS)]
    complements = [f"n{i}" for i in range(SLAB_WORDS)] if FACTORS == 2 else []
    lines += [f"not.b32 {n}, {word};" for n, word in zip(complements, words, strict=False)]
    words = words + complements
    for piece in range(len(words) // 4):
        four = ", ".join(words[4 * piece : 4 * piece + 4])
        lines += [f"@p st.shared.v4.b32 [at + {piece * plane}], {{{four}}};"]
    return _block(lines)


@gluon.constexpr_function
def products(TAPS, FACTORS, PIECES, COLUMNS, WARPGROUPS, GROUPS):
    """Add a slab's products to the counts, from $0 on.

    Behind them are the shared memory of pixels and of weights, and the number of the buffers.
    Along K come the planes of pieces, and the taps in each.
    """
    channels = _channels(FACTORS, GROUPS)
    counts = channels // 2
    pitch = COLUMNS + 2
    if TAPS == 9:
        slots = (64 * WARPGROUPS // COLUMNS + 2) * pitch
        eight_rows_apart, beside, below = pitch, 8, 8 * pitch
    else:
        slots = 64 * WARPGROUPS
        eight_rows_apart, beside, below = 8, 64, COLUMNS // 8 * 64

    lines = [
        ".reg .b32 group, part, pixels, weights, low, high_a, high_b; .reg .b64 a, b;",
        f"mad.lo.u32 pixels, ${counts + 2}, {PIECES * slots * PIECE}, ${counts};",
    ]
    if WARPGROUPS > 1:
        lines += [
            "mov.u32 group, %tid.x;",
            "shr.u32 group, group, 7;",
            f"and.b32 part, group, {COLUMNS // 8 - 1};",
            f"mad.lo.u32 pixels, part, {beside * PIECE}, pixels;",
            f"shr.u32 part, group, {(COLUMNS // 8).bit_length() - 1};",
            f"mad.lo.u32 pixels, part, {below * PIECE}, pixels;",
        ]
    of_buffer = (PIECES * TAPS + 1) // 2 * 2 * channels * PIECE
    lines += [
        f"mad.lo.u32 weights, ${counts + 2}, {of_buffer}, ${counts + 1};",
        # A descriptor's numbers are without their four lowest bits: start, distance of the two
        # pieces along K, and, in its upper half, distance of the core matrices along the other
        # axis. Shared memory ends before a sum reaches the next number.
        "shr.u32 pixels, pixels, 4;",
        "shr.u32 weights, weights, 4;",
        # All lanes of a warp have the same, which ptxas does not see: descriptors would be moved to
        # uniform registers one by one.
        "redux.sync.or.b32 pixels, pixels, -1;",
        "redux.sync.or.b32 weights, weights, -1;",
        f"mov.b32 high_a, {eight_rows_apart};",
        "mov.b32 high_b, 8;",
        "wgmma.fence.sync.aligned;",
    ]

    def place(piece):
        plane, tap = divmod(piece, TAPS)
        return plane * slots + (tap // 3 * pitch + tap % 3 if TAPS == 9 else 0)

    form = f"m64n{channels}k256.s32.b1.b1.and.popc"
    registers = ", ".join(f"${i}" for i in range(counts))
    for step in range((PIECES * TAPS + 1) // 2):
        first = min(2 * step, PIECES * TAPS - 2)
        apart = place(first + 1) - place(first)
        lines += [
            f"add.u32 low, pixels, {place(first) + (apart << 16)};",
            "mov.b64 a, {low, high_a};",
            f"add.u32 low, weights, {2 * step * channels + (channels << 16)};",
            "mov.b64 b, {low, high_b};",
            f"wgmma.mma_async.sync.aligned.{form} {{{registers}}}, a, b, 1;",
        ]
    return _block([*lines, "wgmma.commit_group.sync.aligned;"])


@gluon.constexpr_function
def products_with(FACTORS, GROUPS):
    """Constraints of `products`: counts, three numbers, and the counts that they are added to."""
    counts = _channels(FACTORS, GROUPS) // 2
    return ",".join(["=r"] * counts + ["r"] * 3 + [str(i) for i in range(counts)])


@gluon.constexpr_function
def tied(FACTORS, GROUPS):
    """Constraints of counts that stay where they are."""
    counts = _channels(FACTORS, GROUPS) // 2
    return ",".join(["=r"] * counts + [str(i) for i in range(counts)])


@gluon.constexpr_function
def _channels(FACTORS, GROUPS):
    """Of an instruction."""
    return 32 * GROUPS + (16 if FACTORS == 1 else 0)


@gluon.constexpr_function
def _block(lines):
    return "{ " + " ".join(lines) + " }"
