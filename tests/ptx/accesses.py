"""Loads and stores, and what their modifiers say of order and caches."""

from __future__ import annotations

import numpy as np

from tests.ptx.compiler import Compiler, Modifiers, dtype_of, opcode, unsigned
from tests.ptx.errors import AddressError
from tests.ptx.machine import Array, Machine, Mask, Step
from tests.ptx.syntax import TYPE_BITS, Address, Instruction, Name

HINTS = tuple(
    f"{level}::{hint}"
    for level in ("L1", "L2")
    for hint in (
        "evict_normal",
        "evict_first",
        "evict_last",
        "evict_unchanged",
        "no_allocate",
        "64B",
        "128B",
        "256B",
    )
)
_OPERATORS = ("ca", "cg", "cs", "lu", "cv", "wb", "wt")


@opcode("createpolicy")
def _createpolicy(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    m.need("fractional")
    m.need(*HINTS)
    m.type("b64")
    write = c.assign(i, i.operands[0], "b64")
    policy = np.zeros((1, 1), np.uint64)
    return lambda machine, mask: write(machine, mask, policy)


def take_ordering(m: Modifiers) -> None:
    """Memory order and scope: everything here happens in one order, so any is met."""
    if m.take("relaxed", "acquire", "release", "acq_rel"):
        m.take("cta", "cluster", "gpu", "sys")
    else:
        m.take("weak", "volatile")


def take_caching(c: Compiler, i: Instruction, m: Modifiers, operands: int) -> None:
    while m.take(*HINTS):
        pass
    m.take(*_OPERATORS)
    expected = operands
    if m.take("L2::cache_hint"):
        expected += 1
        c.source(i, i.operands[-1], "b64")
    if len(i.operands) != expected:
        raise i.error(f"expected {expected} operands")


def take_space(m: Modifiers) -> str:
    return m.need("global", "shared", "shared::cta").split("::")[0]


_MEMORY_TYPES = (
    *tuple(f"{kind}{bits}" for kind in "bus" for bits in (8, 16, 32, 64)),
    "f32",
    "f64",
)


def _spread(machine: Machine, mask: Mask, value: Array) -> Array:
    """The opposite of `Machine.picked`, with zeros where the mask is false."""
    if mask is None:
        return value
    result = np.zeros(machine.shape, value.dtype)
    result[machine.everywhere(mask)] = value
    return result


def load(
    machine: Machine, mask: Mask, space: str, addresses: Array, dtype: np.dtype, count: int
) -> list[Array]:
    """What each thread of a mask reads: `count` words at its address."""
    at = machine.picked(mask, addresses)
    try:
        if space == "global":
            found = machine.memory.load(at, dtype, count)
        else:
            found = machine.shared.load(at, machine.who(mask), dtype, count)
    except AddressError as error:
        raise machine.blame(mask, addresses, error) from error
    return [_spread(machine, mask, each) for each in found]


def store(machine: Machine, mask: Mask, space: str, addresses: Array, values: list[Array]) -> None:
    """Each thread of a mask writes its values at its address."""
    at = machine.picked(mask, addresses)
    what = [machine.picked(mask, value) for value in values]
    try:
        if space == "global":
            machine.memory.store(at, what)
        else:
            machine.shared.store(at, machine.who(mask), what)
    except AddressError as error:
        raise machine.blame(mask, addresses, error) from error


@opcode("ld")
def _ld(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type(*_MEMORY_TYPES)
    if m.take("param"):
        return _ld_param(c, i, kind)
    take_ordering(m)
    space = take_space(m)
    m.take("nc")
    count = int((m.take("v2", "v4", "v8") or "v1")[1:])
    take_caching(c, i, m, 2)
    address, dtype = c.address(i, i.operands[1]), unsigned(TYPE_BITS[kind])
    typed = dtype_of(kind)
    writes = [c.wide_assign(i, item, kind) for item in c.items(i, i.operands[0], count)]

    def step(machine: Machine, mask: Mask) -> None:
        found = load(machine, mask, space, address(machine.registers), dtype, count)
        for write, value in zip(writes, found, strict=True):
            write(machine, mask, value.view(typed))

    return step


def _ld_param(c: Compiler, i: Instruction, kind: str) -> Step:
    operand = i.operands[1]
    if not isinstance(operand, Address) or not isinstance(operand.base, Name):
        raise i.error("a parameter's address must be its name")
    number = c.parameters.get(operand.base.text)
    if number is None:
        raise i.error(f"unknown parameter {operand.base.text}")
    parameter = c.module.parameters[number]
    if operand.offset or parameter.count > 1 or TYPE_BITS[parameter.type] != TYPE_BITS[kind]:
        raise i.error("only whole parameters can be loaded")
    write, typed = c.wide_assign(i, i.operands[0], kind), dtype_of(kind)
    return lambda machine, mask: write(machine, mask, machine.parameters[number].view(typed))


@opcode("st")
def _st(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type(*_MEMORY_TYPES)
    take_ordering(m)
    space = take_space(m)
    count = int((m.take("v2", "v4", "v8") or "v1")[1:])
    take_caching(c, i, m, 2)
    address, own = c.address(i, i.operands[0]), unsigned(TYPE_BITS[kind])
    reads = [c.narrow_source(i, item, kind) for item in c.items(i, i.operands[1], count)]

    def step(machine: Machine, mask: Mask) -> None:
        r = machine.registers
        values = [read(r).view(own) for read in reads]
        store(machine, mask, space, address(r), values)

    return step
