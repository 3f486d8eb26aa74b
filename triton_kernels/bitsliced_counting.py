# pyrefly: ignore-errors
"""Bit-sliced counters: bit x of slice i is bit i of pixel x's count. The convolutions share them.

Listed planes are added by carry-save adders, 16 at a time, to four slices; only what these carry
ripples through the slices above. A tile has the axes outputs, one a warp, and words of pixels.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

_AT_ONCE = gl.constexpr(16)


@gluon.jit
def code_planes(
    at,
    plane_step,
    lists,
    numbers,
    constants,
    first,
    outputs,
    entries,
    PLANES: gl.constexpr,
    LISTS: gl.constexpr,
    BITS: gl.constexpr,
    OUTPUTS: gl.constexpr,
    VECTOR: gl.constexpr,
    tile: gl.constexpr,
):
    """Add what every output's lists name, compare; a tuple of planes of codes, [O, words] each.

    Args:
      at: pointers to a tile's words of the first plane, [words], VECTOR after VECTOR.
      plane_step: words between the planes of a code's two bits.
      lists: pointer to those of all outputs, [outputs, L, E] int32. The first half of an output's
        are of negative weights, and list i of either half is of magnitudes 2^i.
      numbers: pointer to [outputs, L] int32, entries that are added: multiples of 16.
      constants: pointer to [T, outputs] int32: what a counter starts from, then the numbers that
        it is compared with but for the first, half its range.
      first: of the tile's outputs.
      outputs: of all groups.
      entries: E.
      PLANES: P.
      LISTS: L.
      BITS: slices.
      OUTPUTS: O.
      VECTOR: words that a thread loads at once; every entry of a list is a multiple of it.
      tile: the layout of outputs and words.
    """
    output = first + gl.arange(0, OUTPUTS, layout=gl.SliceLayout(1, tile))
    at = gl.multiple_of(gl.expand_dims(at, 0), [1, 4 * VECTOR])
    lists = gl.expand_dims(lists + output.to(gl.int64) * (LISTS * entries), 1)
    numbers += (first + warp_number()) * LISTS
    constants = gl.expand_dims(constants + output, 1)
    like = gl.full([OUTPUTS, 32 * VECTOR], 0, gl.uint32, layout=tile)
    planes = (at,)
    if PLANES == 2:
        planes += (gl.multiple_of(at + plane_step, [1, 4 * VECTOR]),)
    counts = ()
    for number in gl.static_range(LISTS):
        counts += (gl.load(numbers + number),)
    counter = _constant(gl.load(constants), like, BITS)
    for number in gl.static_range(LISTS):
        if number == LISTS // 2:
            # ~(~a + b) is a - b.
            counter = _complement(counter, BITS)
        for plane in gl.static_range(PLANES):
            counter = _add_planes(
                counter,
                planes[plane],
                lists + number * entries,
                counts[number],
                number % (LISTS // 2) + plane,
                BITS,
                VECTOR,
            )
    passed = counter[BITS - 1]
    if PLANES == 1:
        codes = (passed,)
    else:
        second = _at_least(counter, gl.load(constants + outputs), BITS)
        third = _at_least(counter, gl.load(constants + 2 * outputs), BITS)
        codes = passed ^ second ^ third, second
    return codes


@gluon.jit
def warp_number():
    """Number of a thread's warp, which has an output of its own.

    The language holds a scalar to be the same in all warps. Of what depends on this one only
    loads and the turns of loops in which warps do not meet may differ.
    """
    return gl.inline_asm_elementwise(
        # The exchange tells the assembler that all of a warp have one number.
        "{ .reg .b32 t; mov.u32 t, %tid.x; shr.u32 t, t, 5; shfl.sync.idx.b32 $0, t, 0, 31, -1; }",
        "=r",
        [],
        dtype=gl.int32,
        is_pure=True,
        pack=1,
    )


@gluon.jit
def valid_bits(words, first_pixel, width):
    """Words without the bits of pixels beyond the width, which the first pixel of each is not."""
    pixels = width - first_pixel
    mask = (gl.full_like(pixels, 1).to(gl.uint32) << pixels.to(gl.uint32)) - 1
    return gl.where(pixels < 32, words & mask, words)


@gluon.jit
def _constant(number, like, BITS: gl.constexpr):
    counter = ()
    for i in gl.static_range(BITS):
        counter += (like | (-((number >> i) & 1)).to(gl.uint32, bitcast=True),)
    return counter


@gluon.jit
def _complement(counter, BITS: gl.constexpr):
    result = ()
    for i in gl.static_range(BITS):
        result += (~counter[i],)
    return result


@gluon.jit
def _add_planes(
    counter,
    at,
    list_,
    count,
    SHIFT: gl.constexpr,
    BITS: gl.constexpr,
    VECTOR: gl.constexpr,
):
    """Add listed planes, each worth 2^SHIFT."""
    for first in range(0, count, _AT_ONCE):
        entries = list_ + first
        c0, c1, c2, c3 = counter[SHIFT], counter[SHIFT + 1], counter[SHIFT + 2], counter[SHIFT + 3]
        c0, c1, c2, a = _eight(at, entries, c0, c1, c2, VECTOR)
        c0, c1, c2, b = _eight(at, entries + 8, c0, c1, c2, VECTOR)
        c3, carry = _full_adder(c3, a, b)
        result = ()
        for i in gl.static_range(SHIFT):
            result += (counter[i],)
        result += (c0, c1, c2, c3)
        for i in gl.static_range(SHIFT + 4, BITS):
            result += (counter[i] ^ carry,)
            carry = counter[i] & carry
        counter = result
    return counter


@gluon.jit
def _eight(at, entries, c0, c1, c2, VECTOR: gl.constexpr):
    c0, c1, a = _four(at, entries, c0, c1, VECTOR)
    c0, c1, b = _four(at, entries + 4, c0, c1, VECTOR)
    c2, carry = _full_adder(c2, a, b)
    return c0, c1, c2, carry


@gluon.jit
def _four(at, entries, c0, c1, VECTOR: gl.constexpr):
    first, second, third, fourth = _four_entries(entries)
    c0, a = _full_adder(c0, _plane(at, first, VECTOR), _plane(at, second, VECTOR))
    c0, b = _full_adder(c0, _plane(at, third, VECTOR), _plane(at, fourth, VECTOR))
    c1, carry = _full_adder(c1, a, b)
    return c0, c1, carry


@gluon.jit
def _four_entries(entries):
    return gl.inline_asm_elementwise(
        "ld.global.nc.v4.b32 {$0, $1, $2, $3}, [$4];",
        "=r,=r,=r,=r,l",
        [entries],
        dtype=(gl.int32, gl.int32, gl.int32, gl.int32),
        is_pure=True,
        pack=1,
    )


@gluon.jit
def _plane(at, entry, VECTOR: gl.constexpr):
    """A tile's words of a listed plane."""
    at = gl.inline_asm_elementwise(
        # Multipliers sum this for nothing; an addition to a pointer would keep the adders' unit.
        "{ .reg .b64 bytes; mul.wide.u32 bytes, $2, 4; add.s64 $0, $1, bytes; }",
        "=l,l,r",
        [at.to(gl.int64, bitcast=True), entry],
        dtype=gl.int64,
        is_pure=True,
        pack=1,
    )
    at = at.to(gl.pointer_type(gl.uint32), bitcast=True)
    return gl.load(gl.max_contiguous(gl.multiple_of(at, [1, 4 * VECTOR]), [1, VECTOR]))


@gluon.jit
def _full_adder(a, b, c):
    """Sum and carry of three words' bits."""
    return gl.inline_asm_elementwise(
        # Written as operators, the XORs would be reordered and the carries take longer.
        "lop3.b32 $0, $2, $3, $4, 0x96; lop3.b32 $1, $2, $3, $4, 0xE8;",
        "=&r,=r,r,r,r",
        [a, b, c],
        dtype=(gl.uint32, gl.uint32),
        is_pure=True,
        pack=1,
    )


@gluon.jit
def _at_least(counter, number, BITS: gl.constexpr):
    """Words of bits, set where the count reaches each output's number."""
    passed = ~(counter[0] ^ counter[0])
    for i in gl.static_range(BITS):
        zero = (((number >> i) & 1) - 1).to(gl.uint32, bitcast=True)
        # Where the number's bit is 1 both must be set, where it is 0 either.
        passed = (counter[i] & passed) | ((counter[i] | passed) & zero)
    return passed
