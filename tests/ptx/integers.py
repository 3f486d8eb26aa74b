"""Integer arithmetic, modulo 2^N, and the operations that floats share by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.ptx import floats
from tests.ptx.compiler import (
    Compiler,
    Modifiers,
    dtype_of,
    opcode,
    unsigned,
)
from tests.ptx.errors import PtxError
from tests.ptx.machine import Array, Machine, Mask, Step
from tests.ptx.syntax import TYPE_BITS, Instruction

_INTEGERS = ("u16", "u32", "u64", "s16", "s32", "s64")


def _negative(a: Array) -> Array:
    return np.negative(a.view(unsigned(8 * a.itemsize))).view(a.dtype)


def _binary(name: str, function: Callable[[Array, Array], Array]) -> None:
    @opcode(name)
    def compile_binary(c: Compiler, i: Instruction, m: Modifiers) -> Step:
        kind = m.type(*_INTEGERS, "f32", "f64")
        if kind[0] == "f":
            return floats.binary(c, i, m, name, kind)
        return c.elementwise(i, kind, function, kind, kind)


_binary("add", np.add)
_binary("sub", np.subtract)
_binary("min", np.minimum)
_binary("max", np.maximum)


@opcode("neg", "abs")
def _sign(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type("s16", "s32", "s64", "f32", "f64")
    if kind[0] == "f":
        return floats.sign(c, i, m, kind)
    function = _negative if i.opcode == "neg" else np.abs
    return c.elementwise(i, kind, function, kind)


def high_product(a: Array, b: Array) -> Array:
    """The upper half of the double-width product."""
    bits = 8 * a.itemsize
    if bits < 64:
        wide = np.dtype(f"{a.dtype.kind}{2 * a.itemsize}")
        return (a.astype(wide) * b.astype(wide) >> bits).astype(a.dtype)
    x, y, low = a.view(np.uint64), b.view(np.uint64), np.uint64(2**32 - 1)
    half = np.uint64(32)
    x0, x1, y0, y1 = x & low, x >> half, y & low, y >> half
    middle = x1 * y0 + (x0 * y0 >> half)
    other = x0 * y1 + (middle & low)
    high = x1 * y1 + (middle >> half) + (other >> half)
    if a.dtype.kind == "i":
        zero = np.uint64(0)
        high = high - np.where(a < 0, y, zero) - np.where(b < 0, x, zero)
    return high.view(a.dtype)


def _product(kind: str, part: str) -> tuple[str, Callable[[Array, Array], Array]]:
    """The type of a product's part, and the function that gives it."""
    if part == "lo":
        return kind, np.multiply
    if part == "hi":
        return kind, high_product
    wide = f"{kind[0]}{2 * TYPE_BITS[kind]}"
    dtype = dtype_of(wide)
    return wide, lambda a, b: a.astype(dtype) * b.astype(dtype)


@opcode("mul")
def _mul(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type(*_INTEGERS, "f32", "f64")
    if kind[0] == "f":
        return floats.binary(c, i, m, "mul", kind)
    result, function = _product(kind, m.need("lo", "hi", "wide"))
    return c.elementwise(i, result, function, kind, kind)


@opcode("mad")
def _mad(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type(*_INTEGERS, "f32")
    if kind == "f32":
        return floats.fused(c, i, m)
    result, function = _product(kind, m.need("lo", "hi", "wide"))
    return c.elementwise(i, result, lambda a, b, d: function(a, b) + d, kind, kind, result)


def _quotient(a: Array, b: Array) -> Array:
    """Towards zero."""
    quotient = a // b
    if a.dtype.kind == "u":
        return quotient
    inexact = quotient * b != a
    return quotient + (inexact & ((a < 0) != (b < 0))).astype(a.dtype)


@opcode("div", "rem")
def _div(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type(*_INTEGERS, "f32", "f64")
    if kind[0] == "f":
        if i.opcode == "rem":
            raise i.error("no remainder of floats")
        return floats.binary(c, i, m, "div", kind)
    if i.opcode == "div":
        step = c.elementwise(i, kind, _quotient, kind, kind)
    else:
        step = c.elementwise(i, kind, lambda a, b: a - _quotient(a, b) * b, kind, kind)
    divisor = c.source(i, i.operands[2], kind)

    def checked(machine: Machine, mask: Mask) -> None:
        zero = divisor(machine.registers) == 0
        if (zero if mask is None else zero & mask).any():
            raise PtxError("division by zero")
        step(machine, mask)

    return checked


@opcode("sad")
def _sad(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type(*_INTEGERS)

    def sad(a: Array, b: Array, d: Array) -> Array:
        return d + np.where(a < b, b - a, a - b)

    return c.elementwise(i, kind, sad, kind, kind, kind)


@opcode("dp4a")
def _dp4a(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kinds = m.types()
    if len(kinds) != 2 or not {*kinds} <= {"u32", "s32"}:
        raise i.error("dp4a takes two of .u32 and .s32")
    result = "s32" if "s32" in kinds else "u32"
    bytes_of = ["u1" if kind == "u32" else "i1" for kind in kinds]

    def dp4a(a: Array, b: Array, d: Array) -> Array:
        total = d
        for byte in range(4):
            x, y = (
                (each.view(np.uint32) >> np.uint32(8 * byte)).astype(np.uint8).view(kind)
                for each, kind in zip((a, b), bytes_of, strict=True)
            )
            total = total + x.astype(d.dtype) * y.astype(d.dtype)
        return total

    return c.elementwise(i, result, dp4a, kinds[0], kinds[1], result)
