"""Moves between registers and memory: mov, ld, st, cvta, cp.async, atom and red."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.ptx.compiler import (
    Compiler,
    Modifiers,
    Source,
    dtype_of,
    opcode,
    unsigned,
)
from tests.ptx.errors import PtxError
from tests.ptx.machine import Array, Machine, Mask, Step
from tests.ptx.shared import ATOMICS, Accessors
from tests.ptx.syntax import TYPE_BITS, Address, Instruction, Name, Number, Vector

_HINTS = tuple(
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


@opcode("mov")
def _mov(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type()
    if len(i.operands) != 2:
        raise i.error("expected 2 operands")
    destination, source = i.operands
    if isinstance(destination, Vector):
        return _unpack(c, i, kind)
    if isinstance(source, Vector):
        return _pack(c, i, kind)
    write, read = c.assign(i, destination, kind), c.source(i, source, kind)
    return lambda machine, mask: write(machine, mask, read(machine.registers))


def _part(i: Instruction, vector: Vector, kind: str) -> int:
    bits = TYPE_BITS[kind] // len(vector.items)
    if kind[0] != "b" or bits not in (8, 16, 32, 64) or bits * len(vector.items) != TYPE_BITS[kind]:
        raise i.error("the parts do not make up the whole")
    return bits


def _unpack(c: Compiler, i: Instruction, kind: str) -> Step:
    vector = i.operands[0]
    assert isinstance(vector, Vector)
    bits, read = _part(i, vector, kind), c.source(i, i.operands[1], kind)
    part = unsigned(bits)
    writes = [c.assign(i, item, f"b{bits}") for item in vector.items]

    def unpack(machine: Machine, mask: Mask) -> None:
        whole = read(machine.registers)
        for place, write in enumerate(writes):
            write(machine, mask, (whole >> whole.dtype.type(place * bits)).astype(part))

    return unpack


def _pack(c: Compiler, i: Instruction, kind: str) -> Step:
    vector = i.operands[1]
    assert isinstance(vector, Vector)
    bits, write = _part(i, vector, kind), c.assign(i, i.operands[0], kind)
    whole = dtype_of(kind)
    reads = [c.source(i, item, f"b{bits}") for item in vector.items]

    def pack(machine: Machine, mask: Mask) -> None:
        result = reads[0](machine.registers).astype(whole)
        for place, read in enumerate(reads[1:], 1):
            part = read(machine.registers).astype(whole)
            result = result | part << whole.type(place * bits)
        write(machine, mask, result)

    return pack


@opcode("cvta")
def _cvta(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    """Generic addresses of global memory are its addresses."""
    m.take("to")
    m.need("global")
    kind = m.type("u64")
    return c.elementwise(i, kind, lambda a: a, kind)


@opcode("createpolicy")
def _createpolicy(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    m.need("fractional")
    m.need(*_HINTS)
    m.type("b64")
    write = c.assign(i, i.operands[0], "b64")
    policy = np.zeros((1, 1), np.uint64)
    return lambda machine, mask: write(machine, mask, policy)


def _ordering(m: Modifiers) -> None:
    """Memory order and scope: everything here happens in one order, so any is met."""
    if m.take("relaxed", "acquire", "release", "acq_rel"):
        m.take("cta", "cluster", "gpu", "sys")
    else:
        m.take("weak", "volatile")


def _caching(c: Compiler, i: Instruction, m: Modifiers, operands: int) -> None:
    while m.take(*_HINTS):
        pass
    m.take(*_OPERATORS)
    expected = operands
    if m.take("L2::cache_hint"):
        expected += 1
        c.source(i, i.operands[-1], "b64")
    if len(i.operands) != expected:
        raise i.error(f"expected {expected} operands")


def _space(m: Modifiers) -> str:
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
    if space == "global":
        found = machine.memory.load(at, dtype, count)
    else:
        found = machine.shared.load(at, machine.who(mask), dtype, count)
    return [_spread(machine, mask, each) for each in found]


def store(machine: Machine, mask: Mask, space: str, addresses: Array, values: list[Array]) -> None:
    """Each thread of a mask writes its values at its address."""
    at = machine.picked(mask, addresses)
    what = [machine.picked(mask, value) for value in values]
    if space == "global":
        machine.memory.store(at, what)
    else:
        machine.shared.store(at, machine.who(mask), what)


@opcode("ld")
def _ld(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type(*_MEMORY_TYPES)
    if m.take("param"):
        return _ld_param(c, i, kind)
    _ordering(m)
    space = _space(m)
    m.take("nc")
    count = int((m.take("v2", "v4", "v8") or "v1")[1:])
    _caching(c, i, m, 2)
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
    _ordering(m)
    space = _space(m)
    count = int((m.take("v2", "v4", "v8") or "v1")[1:])
    _caching(c, i, m, 2)
    address, own = c.address(i, i.operands[0]), unsigned(TYPE_BITS[kind])
    reads = [c.narrow_source(i, item, kind) for item in c.items(i, i.operands[1], count)]

    def step(machine: Machine, mask: Mask) -> None:
        r = machine.registers
        values = [read(r).view(own) for read in reads]
        store(machine, mask, space, address(r), values)

    return step


@dataclass
class Copy:
    """A `cp.async` on its way.

    Attributes:
      target: addresses in shared memory.
      data: the words that will be there, read when the copy was issued.
      mask: the threads that have not waited for it.
      group: number of the group, of each thread, that the copy will belong to.
    """

    target: Array
    data: list[Array]
    mask: Array
    group: Array


@opcode("cp")
def _cp(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    m.need("async")
    if m.take("commit_group"):
        return _commit_group
    if m.take("wait_all"):
        return lambda machine, mask: _wait(machine, mask, everything=True, pending=0)
    if m.take("wait_group"):
        number = i.operands[0]
        if not isinstance(number, Number):
            raise i.error("expected an immediate")
        pending = int(number.value)
        return lambda machine, mask: _wait(machine, mask, everything=False, pending=pending)
    return _copy(c, i, m)


def _copy(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    cached = m.need("ca", "cg")
    m.need("shared", "shared::cta")
    m.need("global")
    while m.take(*_HINTS):
        pass
    operands = i.operands
    if m.take("L2::cache_hint"):
        operands = operands[:-1]
    if len(operands) not in (3, 4) or not isinstance(operands[2], Number):
        raise i.error("expected [target], [source], size and perhaps the source's size")
    size = int(operands[2].value)
    if size not in ((16,) if cached == "cg" else (4, 8, 16)):
        raise i.error(f"no copy of {size} bytes")
    target, source = c.address(i, operands[0]), c.address(i, operands[1])
    length = c.source(i, operands[3], "b32") if len(operands) == 4 else None

    def copy(machine: Machine, mask: Mask) -> None:
        r = machine.registers
        where, whence, words = target(r), source(r), size // 4
        if length is None:
            data = load(machine, mask, "global", whence, np.dtype(np.uint32), words)
        else:
            data = _prefix(machine, mask, whence, length(r), size)
        here = machine.everywhere(mask)
        machine.shared.expect(machine.picked(mask, where), machine.who(mask), size)
        machine.copies.append(Copy(where, data, here, machine.commits.copy()))

    return copy


def _prefix(machine: Machine, mask: Mask, whence: Array, length: Array, size: int) -> list[Array]:
    """The first bytes of what a copy takes, with zeros for the rest."""
    here = machine.everywhere(mask)
    if (machine.full(length)[here] > size).any():
        raise PtxError(f"the source's size is larger than {size}")
    words = []
    for place in range(size // 4):
        inside = here & (length >= 4 * place + 4)
        partly = here & ~inside & (length > 4 * place)
        if partly.any():
            raise PtxError("a source's size that is no multiple of 4")
        word = np.zeros(machine.shape, np.uint32)
        if inside.any():
            at = whence + np.uint64(4 * place)
            (word,) = load(machine, inside, "global", at, np.dtype(np.uint32), 1)
        words.append(word)
    return words


def _commit_group(machine: Machine, mask: Mask) -> None:
    machine.commits = machine.commits + machine.everywhere(mask)


def _wait(machine: Machine, mask: Mask, *, everything: bool, pending: int) -> None:
    left = []
    for copy in machine.copies:
        done = copy.mask & machine.everywhere(mask)
        if not everything:
            done = done & (copy.group < machine.commits - pending)
        if done.any():
            chosen = None if done.all() else done
            store(machine, chosen, "shared", copy.target, copy.data)
        if (remaining := copy.mask & ~done).any():
            left.append(Copy(copy.target, copy.data, remaining, copy.group))
    machine.copies = left


_UPDATES: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "min": np.minimum,
    "max": np.maximum,
    "exch": lambda old, new: new,
}


@opcode("atom", "red")
def _atom(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    _ordering(m)
    m.take("cta", "cluster", "gpu", "sys")
    space = _space(m)
    name = m.need(*_UPDATES, "cas")
    kind = m.type("b32", "b64", "u32", "u64", "s32", "s64")
    arity = 2 if name == "cas" else 1
    returns = i.opcode == "atom"
    if not returns and name in ("cas", "exch"):
        raise i.error(f"no red.{name}")
    _caching(c, i, m, returns + 1 + arity)
    address = c.address(i, i.operands[returns])
    reads: list[Source] = [
        c.source(i, each, kind) for each in i.operands[returns + 1 : returns + 1 + arity]
    ]
    write = c.assign(i, i.operands[0], kind) if returns else None
    typed, own = dtype_of(kind), unsigned(TYPE_BITS[kind])

    def step(machine: Machine, mask: Mask) -> None:
        r = machine.registers
        here = np.nonzero(machine.everywhere(mask))
        at = machine.full(address(r))[here]
        values = [machine.full(read(r))[here] for read in reads]
        old = np.zeros(machine.shape, typed)
        # One thread after another: threads may share an address.
        for k in range(at.size):
            cta, thread = int(here[0][k]), int(here[1][k])
            place = at[k : k + 1]
            who = Accessors(np.array([cta]), np.full(1, ATOMICS, np.uint8))
            if space == "global":
                found = machine.memory.load(place, own, 1)[0].view(typed)
            else:
                found = machine.shared.load(place, who, own, 1)[0].view(typed)
            old[cta, thread] = found[0]
            if name == "cas":
                new = np.where(found == values[0][k], values[1][k : k + 1], found)
            else:
                new = np.asarray(_UPDATES[name](found, values[0][k : k + 1]))
            if space == "global":
                machine.memory.store(place, [new.view(own)])
            else:
                machine.shared.store(place, who, [new.view(own)])
        if write is not None:
            write(machine, mask, old)

    return step
