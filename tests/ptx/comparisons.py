"""setp, set and selp."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.ptx.compiler import Compiler, Modifiers, dtype_of, opcode
from tests.ptx.machine import Array, Machine, Mask, Step
from tests.ptx.syntax import Instruction, Pair

_ORDERED: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
_COMBINE: dict[str, Callable[[Array, Array], Array]] = {
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
}
_FLOAT_ONLY = ("equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan")


def _nans(a: Array, b: Array) -> Array:
    return np.isnan(a) | np.isnan(b)


def _comparison(i: Instruction, m: Modifiers, kind: str) -> Callable[[Array, Array], Array]:
    name = m.need(*_ORDERED, *_UNSIGNED, *_FLOAT_ONLY)
    letter = kind[0]
    allowed = {
        "b": ("eq", "ne"),
        "s": tuple(_ORDERED),
        "u": (*_ORDERED, *_UNSIGNED),
        "f": (*_ORDERED, *_FLOAT_ONLY),
    }[letter]
    if name not in allowed:
        raise i.error(f"no comparison .{name} of .{kind}")
    if name == "num":
        return lambda a, b: ~_nans(a, b)
    if name == "nan":
        return _nans
    if name in _FLOAT_ONLY:
        ordered = _ORDERED[name[:2]]
        return lambda a, b: ordered(a, b) | _nans(a, b)
    if name == "ne" and letter == "f":
        return lambda a, b: np.not_equal(a, b) & ~_nans(a, b)
    return _ORDERED[_UNSIGNED.get(name, name)]


_COMPARED = (*tuple(f"{kind}{bits}" for kind in "bus" for bits in (16, 32, 64)), "f32", "f64")


@opcode("setp")
def _setp(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type(*_COMPARED)
    compare = _comparison(i, m, kind)
    combine = _COMBINE.get(m.take(*_COMBINE) or "")
    if len(i.operands) != (3 if combine is None else 4):
        raise i.error("a wrong number of operands")
    first = i.operands[0]
    second = None
    if isinstance(first, Pair):
        first, second = first.first, first.second
    a, b = (c.source(i, operand, kind) for operand in i.operands[1:3])
    write = c.assign(i, first, "pred")
    also = None if second is None else c.assign(i, second, "pred")
    with_ = None if combine is None else c.source(i, i.operands[3], "pred")
    if also is None and with_ is None:
        return lambda machine, mask: write(
            machine, mask, compare(a(machine.registers), b(machine.registers))
        )

    def step(machine: Machine, mask: Mask) -> None:
        holds = compare(a(machine.registers), b(machine.registers))
        fails = ~holds
        if combine is not None and with_ is not None:
            other = with_(machine.registers)
            holds, fails = combine(holds, other), combine(fails, other)
        write(machine, mask, holds)
        if also is not None:
            also(machine, mask, fails)

    return step


@opcode("set")
def _set(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kinds = m.types()
    if len(kinds) != 2 or kinds[0] not in ("u32", "s32", "f32") or kinds[1] not in _COMPARED:
        raise i.error("unsupported types")
    compare = _comparison(i, m, kinds[1])
    dtype = dtype_of(kinds[0])
    yes = np.array(1.0 if dtype.kind == "f" else -1).astype(dtype)
    no = np.zeros((), dtype)
    combine = _COMBINE.get(m.take(*_COMBINE) or "")
    if combine is None:
        return c.elementwise(
            i, kinds[0], lambda a, b: np.where(compare(a, b), yes, no), kinds[1], kinds[1]
        )

    def combined(a: Array, b: Array, p: Array) -> Array:
        return np.where(combine(compare(a, b), p), yes, no)

    return c.elementwise(i, kinds[0], combined, kinds[1], kinds[1], "pred")


@opcode("selp")
def _selp(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type(*_COMPARED, "f16")
    return c.elementwise(i, kind, lambda a, b, p: np.where(p, a, b), kind, kind, "pred")
