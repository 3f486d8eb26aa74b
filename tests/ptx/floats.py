"""IEEE arithmetic, rounded to nearest even; what only approximates is not offered."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.ptx.compiler import Compiler, Modifiers, dtype_of, opcode, unsigned
from tests.ptx.machine import Array, Step
from tests.ptx.syntax import Instruction


def flush(a: Array) -> Array:
    """Subnormal numbers to zeros of their sign."""
    tiny = np.abs(a) < np.finfo(a.dtype).smallest_normal
    return np.where(tiny, np.copysign(np.zeros_like(a), a), a)


def _flushing(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda *operands: flush(function(*(flush(each) for each in operands)))


def _extremum(name: str, nan: bool) -> Callable[[Array, Array], Array]:
    """The minimum or maximum with -0 < +0; NaN only where both are, or `nan` asks for it."""
    least = name == "min"
    pick = {
        (True, False): np.fmin,
        (True, True): np.minimum,
        (False, False): np.fmax,
        (False, True): np.maximum,
    }[least, nan]

    def extremum(a: Array, b: Array) -> Array:
        zeros = (a == 0) & (b == 0)
        negative = np.signbit(a) | np.signbit(b) if least else np.signbit(a) & np.signbit(b)
        zero = np.where(negative, a.dtype.type(-0.0), a.dtype.type(0.0))
        return np.where(zeros, zero, pick(a, b))

    return extremum


_FUNCTIONS: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
}


def binary(c: Compiler, i: Instruction, m: Modifiers, name: str, kind: str) -> Step:
    """add, sub, mul, div, min and max of floats."""
    if name in ("min", "max"):
        function = _extremum(name, m.take("NaN") is not None)
    else:
        function = _FUNCTIONS[name]
        if m.take("rn") is None and name == "div":
            raise i.error("only division rounded to nearest (.rn) is exact")
    if m.take("ftz"):
        function = _flushing(function)
    return c.elementwise(i, kind, function, kind, kind)


def sign(c: Compiler, i: Instruction, m: Modifiers, kind: str) -> Step:
    """neg and abs of floats."""
    function = np.negative if i.opcode == "neg" else np.abs
    if m.take("ftz"):
        function = _flushing(function)
    return c.elementwise(i, kind, function, kind)


def fused_multiply_add(a: Array, b: Array, c: Array) -> Array:
    """`a * b + c` of float32, rounded once.

    The product is exact in float64. The sum is rounded there to odd, which keeps what the second
    rounding, to float32, has to know (Boldo and Melquiond, 2008).
    """
    product, addend = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = product + addend
    virtual = total - product
    error = (product - (total - virtual)) + (addend - virtual)
    odd = total.view(np.uint64) & np.uint64(1)
    inexact = (error != 0) & np.isfinite(total) & (odd == 0)
    towards = np.where((error > 0) == (total > 0), 1, -1).astype(np.int64)
    # An even number's neighbours are odd, and it is not the power of two where spacing changes.
    nudged = (total.view(np.int64) + towards).view(np.float64)
    return np.where(inexact, nudged, total).astype(np.float32)


def fused(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    """fma and mad of float32."""
    m.need("rn")
    function: Callable[..., Array] = fused_multiply_add
    if m.take("ftz"):
        function = _flushing(function)
    return c.elementwise(i, "f32", function, "f32", "f32", "f32")


@opcode("fma")
def _fma(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    m.type("f32")
    return fused(c, i, m)


@opcode("sqrt", "rcp")
def _root(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type("f32", "f64")
    m.need("rn")
    function = np.sqrt if i.opcode == "sqrt" else np.reciprocal
    if m.take("ftz"):
        function = _flushing(function)
    return c.elementwise(i, kind, function, kind)


@opcode("copysign")
def _copysign(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type("f32", "f64")
    return c.elementwise(i, kind, lambda a, b: np.copysign(b, a), kind, kind)


_WHOLE = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def _to_integer(rounding: str, source: np.dtype, target: np.dtype) -> Callable[[Array], Array]:
    limits = np.iinfo(target)
    lowest, highest = target.type(limits.min), target.type(limits.max)
    bits = 8 * target.itemsize
    nan = 1 << bits - 1 if source.itemsize == 8 or bits == 64 else 0
    of_nan = np.array(nan, unsigned(bits)).view(target)

    def convert(a: Array) -> Array:
        whole = _WHOLE[rounding](a.astype(np.float64))
        inside = (whole >= float(limits.min)) & (whole < float(limits.max) + (bits < 64))
        result = np.where(inside, whole, 0.0).astype(target)
        result = np.where(inside, result, np.where(whole < 0, lowest, highest))
        return np.where(np.isnan(whole), of_nan, result)

    return convert


def _between_integers(source: np.dtype, target: np.dtype, saturate: bool) -> Callable:
    def convert(a: Array) -> Array:
        if saturate:
            low = max(np.iinfo(source).min, np.iinfo(target).min)
            high = min(np.iinfo(source).max, np.iinfo(target).max)
            a = np.clip(a, source.type(low), source.type(high))
        return a.astype(target)

    return convert


@opcode("cvt")
def _cvt(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kinds = m.types()
    if len(kinds) != 2 or len(i.operands) != 2 or any(kind[0] == "b" for kind in kinds):
        raise i.error("unsupported conversion")
    target, source = (dtype_of(kind) for kind in kinds)
    if target.kind == "f" and source.kind == "f":
        function = _between_floats(i, m, target, source)
    elif target.kind == "f":
        m.need("rn")
        if source.itemsize == 8 and target.itemsize == 2:
            raise i.error("unsupported conversion")
        function = _rounded_to(target)
    elif source.kind == "f":
        function = _to_integer(m.need(*_WHOLE), source, target)
        m.take("sat")
        if m.take("ftz"):
            convert = function
            function = lambda a: convert(flush(a))  # noqa: E731
    else:
        function = _between_integers(source, target, m.take("sat") is not None)
    read = c.narrow_source(i, i.operands[1], kinds[1])
    write = c.wide_assign(i, i.operands[0], kinds[0])
    return lambda machine, mask: write(machine, mask, function(read(machine.registers)))


def _rounded_to(target: np.dtype) -> Callable[[Array], Array]:
    if target.itemsize == 2:  # through float64, which holds any 32-bit integer
        return lambda a: a.astype(np.float64).astype(target)
    return lambda a: a.astype(target)


def _between_floats(
    i: Instruction, m: Modifiers, target: np.dtype, source: np.dtype
) -> Callable[[Array], Array]:
    whole = m.take(*_WHOLE)
    if target == source and whole is None:
        raise i.error("unsupported conversion")
    if target.itemsize < source.itemsize:
        m.need("rn")
    ftz = m.take("ftz") is not None
    saturate = m.take("sat") is not None

    def convert(a: Array) -> Array:
        if ftz and a.itemsize == 4:
            a = flush(a)
        if whole is not None:
            a = _WHOLE[whole](a)
        a = a.astype(target)
        if ftz and a.itemsize == 4:
            a = flush(a)
        return np.clip(np.where(np.isnan(a), target.type(0), a), 0, 1) if saturate else a

    return convert
