"""Logic, shifts and bit fields."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from tests.ptx.compiler import Compiler, Modifiers, dtype_of, opcode, unsigned
from tests.ptx.machine import Array, Step
from tests.ptx.syntax import TYPE_BITS, Instruction, Number

_BITS = ("pred", "b16", "b32", "b64")


def _logic(name: str, function: Callable[[Array, Array], Array]) -> None:
    @opcode(name)
    def compile_logic(c: Compiler, i: Instruction, m: Modifiers) -> Step:
        kind = m.type(*_BITS)
        return c.elementwise(i, kind, function, kind, kind)


_logic("and", np.bitwise_and)
_logic("or", np.bitwise_or)
_logic("xor", np.bitwise_xor)


@opcode("not")
def _not(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type(*_BITS)
    return c.elementwise(i, kind, np.invert, kind)


@opcode("cnot")
def _cnot(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type(*_BITS[1:])
    return c.elementwise(i, kind, lambda a: (a == 0).astype(a.dtype), kind)


@cache
def _shortest_logic() -> dict[int, str]:
    """A shortest Python expression in a, b, c for each truth table of three inputs."""
    found = {0xF0: "a", 0xCC: "b", 0xAA: "c"}
    levels = [list(found)]
    while len(found) < 256:
        cost, new = len(levels), {}
        for table in levels[cost - 1]:
            new.setdefault(table ^ 0xFF, f"~{found[table]}")
        for left in range(cost):
            for x in levels[left]:
                for y in levels[cost - 1 - left]:
                    new.setdefault(x & y, f"({found[x]} & {found[y]})")
                    new.setdefault(x | y, f"({found[x]} | {found[y]})")
                    new.setdefault(x ^ y, f"({found[x]} ^ {found[y]})")
        new = {table: text for table, text in new.items() if table not in found}
        found.update(new)
        levels.append(list(new))
    return found


@cache
def logic_of(table: int) -> Callable[[Array, Array, Array], Array]:
    """The function of three words whose truth table is lop3's `immLut`."""
    return eval(f"lambda a, b, c: {_shortest_logic()[table]}")


@opcode("lop3")
def _lop3(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    m.need("b32")
    *_, table = i.operands
    if not isinstance(table, Number) or not isinstance(table.value, int):
        raise i.error("the truth table must be an immediate")
    short = Instruction(
        i.line, i.text, i.opcode, i.modifiers, i.operands[:-1], None, False, i.scope
    )
    return c.elementwise(short, "b32", logic_of(table.value & 0xFF), "b32", "b32", "b32")


@opcode("shl")
def _shl(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type("b16", "b32", "b64")
    return c.elementwise(i, kind, _shift(np.left_shift, kind), kind, "u32")


@opcode("shr")
def _shr(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type("b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64")
    return c.elementwise(i, kind, _shift(np.right_shift, kind), kind, "u32")


def _shift(function: Callable[[Array, Array], Array], kind: str) -> Callable[..., Array]:
    """NumPy's shifts by the width or more give what PTX's clamped ones do."""
    dtype, width = dtype_of(kind), np.uint32(TYPE_BITS[kind])
    if dtype == np.uint32:
        return function
    return lambda a, b: function(a, np.minimum(b, width).astype(dtype))


@opcode("shf")
def _shf(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    m.need("b32")
    left, wrap = m.need("l", "r") == "l", m.need("wrap", "clamp") == "wrap"

    def funnel(a: Array, b: Array, n: Array) -> Array:
        n = (n & np.uint32(31) if wrap else np.minimum(n, np.uint32(32))).astype(np.uint64)
        both = b.astype(np.uint64) << np.uint64(32) | a
        return ((both << n) >> np.uint64(32) if left else both >> n).astype(np.uint32)

    return c.elementwise(i, "b32", funnel, "b32", "b32", "u32")


@opcode("popc")
def _popc(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type("b32", "b64")
    return c.elementwise(i, "u32", lambda a: np.bitwise_count(a).astype(np.uint32), kind)


def _length(a: Array) -> Array:
    """Number of bits up to the highest one, uint32."""
    if a.itemsize == 8:
        high, low = (a >> np.uint64(32)).astype(np.uint32), a.astype(np.uint32)
        return np.where(high != 0, _length(high) + np.uint32(32), _length(low))
    return np.frexp(a.astype(np.float64))[1].astype(np.uint32)


@opcode("clz")
def _clz(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type("b32", "b64")
    width = np.uint32(TYPE_BITS[kind])
    return c.elementwise(i, "u32", lambda a: width - _length(a), kind)


@opcode("bfind")
def _bfind(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type("u32", "u64", "s32", "s64")
    distance = m.take("shiftamt")
    top, none = np.uint32(TYPE_BITS[kind] - 1), np.uint32(2**32 - 1)

    def bfind(a: Array) -> Array:
        a = np.where(a < 0, ~a, a).view(unsigned(8 * a.itemsize))
        found = _length(a) - np.uint32(1)
        return np.where(a == 0, none, top - found if distance else found)

    return c.elementwise(i, "u32", bfind, kind)


@opcode("brev")
def _brev(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type("b32", "b64")

    def reverse(a: Array) -> Array:
        backwards = a.byteswap()
        for width, pattern in ((4, 0x0F), (2, 0x33), (1, 0x55)):
            shift = a.dtype.type(width)
            low = a.dtype.type(int.from_bytes([pattern] * a.itemsize))
            backwards = (backwards & low) << shift | backwards >> shift & low
        return backwards

    return c.elementwise(i, kind, reverse, kind)


def _ones(count: Array, dtype: np.dtype) -> Array:
    """Words with that many low ones."""
    width = 8 * dtype.itemsize
    shift = np.minimum(count, np.uint32(width)).astype(dtype)
    return ~(np.full((1, 1), np.iinfo(dtype).max, dtype) << shift)


@opcode("bfe")
def _bfe(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type("u32", "u64", "s32", "s64")
    own, top = unsigned(TYPE_BITS[kind]), np.uint32(TYPE_BITS[kind] - 1)

    def extract(a: Array, start: Array, length: Array) -> Array:
        start, length = start & np.uint32(255), length & np.uint32(255)
        word, shift = a.view(own), np.minimum(start, top + np.uint32(1)).astype(own)
        inside = _ones(length, own) & np.full((1, 1), np.iinfo(own).max, own) >> shift
        field = word >> shift & inside
        if kind[0] == "u":
            return field
        last = np.minimum(start + length - np.uint32(1), top).astype(own)
        negative = (length != 0) & (word >> last & own.type(1)).astype(bool)
        return np.where(negative, field | ~inside, field).view(a.dtype)

    return c.elementwise(i, kind, extract, kind, "u32", "u32")


@opcode("bfi")
def _bfi(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type("b32", "b64")
    own = unsigned(TYPE_BITS[kind])

    def insert(a: Array, b: Array, start: Array, length: Array) -> Array:
        shift = np.minimum(start & np.uint32(255), np.uint32(TYPE_BITS[kind])).astype(own)
        field = _ones(length & np.uint32(255), own) << shift
        return b & ~field | a << shift & field

    return c.elementwise(i, kind, insert, kind, kind, "u32", "u32")


# Which byte of {b, a} goes where, lowest first, for each value of the selector's two bits.
_BYTE_ORDERS = {
    "f4e": ("0123", "1234", "2345", "3456"),
    "b4e": ("0765", "1076", "2107", "3210"),
    "rc8": ("0000", "1111", "2222", "3333"),
    "ecl": ("0123", "1123", "2223", "3333"),
    "ecr": ("0000", "0111", "0122", "0123"),
    "rc16": ("0101", "2323", "0101", "2323"),
}


def _read_if_taken(words: Array | None, selector: Array, *, of_b: bool) -> Array:
    """Words of a source; one that no byte is taken from is not read and may be unwritten."""
    if words is not None:
        return words
    for byte in range(4):
        taken = (selector >> np.uint32(4 * byte) & np.uint32(4)).astype(bool)
        if (taken == of_b).any():
            raise ValueError("bytes are taken from a register that nothing has written")
    return np.zeros((1, 1), np.uint32)


@opcode("prmt")
def _prmt(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    m.need("b32")
    mode = m.take(*_BYTE_ORDERS)
    orders = _BYTE_ORDERS.get(mode or "")
    table = (
        None if orders is None else np.array([int(order[::-1], 16) for order in orders], np.uint32)
    )

    def permute(a: Array | None, b: Array | None, selector: Array) -> Array:
        if table is not None:
            selector = table[selector & np.uint32(3)]
        a = _read_if_taken(a, selector, of_b=False)
        b = _read_if_taken(b, selector, of_b=True)
        both = b.astype(np.uint64) << np.uint64(32) | a
        result = np.zeros((1, 1), np.uint32)
        for byte in range(4):
            nibble = selector >> np.uint32(4 * byte)
            chosen = (both >> ((nibble & np.uint32(7)) << np.uint32(3))).astype(np.uint8)
            sign = (nibble & np.uint32(8)).astype(bool)
            chosen = np.where(sign, (chosen.view(np.int8) >> 7).view(np.uint8), chosen)
            result = result | chosen.astype(np.uint32) << np.uint32(8 * byte)
        return result

    return c.elementwise(i, "b32", permute, "b32", "b32", "b32")
