# pyrefly: ignore-errors
"""Counting of agreeing bits, and codes of the counts: what the convolutions share.

Of an output channel let p and n be the bit planes of its positive and negative weights. An
activation bit a agrees with a weight where p and a, or n and not a, are set. A tile has the axes
pixels, 32 channels, and words; its last axis lies in one thread's registers.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def popcount(words):
    """Bits set in each word."""
    return gl.inline_asm_elementwise(
        "popc.b32 $0, $1;", "=r,r", [words], dtype=gl.int32, is_pure=True, pack=1
    )


@gluon.jit
def popcount3(a, b, c):
    """Bits set in three words: counting takes longest, and a full adder leaves two to count."""
    ones, twos = gl.inline_asm_elementwise(
        # Written as operators, the XORs would be reordered and the carries take longer.
        "lop3.b32 $0, $2, $3, $4, 0x96; lop3.b32 $1, $2, $3, $4, 0xE8;",
        "=&r,=r,r,r,r",
        [a, b, c],
        dtype=(gl.uint32, gl.uint32),
        is_pure=True,
        pack=1,
    )
    return popcount(ones) + 2 * popcount(twos)


@gluon.jit
def agreeing(a, p, n):
    """Bits of masked weights and activations that agree."""
    return (a & p) | (n & ~a)


@gluon.jit
def code_words(counts, least, thresholds_apart, PLANES: gl.constexpr):
    """Compare [pixels, 32] counts with pointers to thresholds; a tuple of planes of codes."""
    passed = _bits(counts, least)
    if PLANES == 1:
        words = (_word(passed),)
    else:
        second = _bits(counts, least + thresholds_apart)
        third = _bits(counts, least + 2 * thresholds_apart)
        words = _word(passed ^ second ^ third), _word(second)
    return words


@gluon.jit
def _bits(counts, least):
    return (counts >= gl.expand_dims(gl.load(least), 0)).to(gl.uint32)


@gluon.jit
def _word(bits):
    places = gl.arange(0, 32, layout=gl.SliceLayout(0, bits.type.layout)).to(gl.uint32)
    return gl.reduce_or(bits << gl.expand_dims(places, 0), axis=1)
