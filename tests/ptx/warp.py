"""Instructions of a warp together: shfl, vote, match, redux, elect, activemask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.ptx.compiler import Compiler, Modifiers, Source, dtype_of, opcode
from tests.ptx.errors import PtxError
from tests.ptx.machine import WARP, Array, Machine, Mask, Step
from tests.ptx.syntax import Instruction, Pair

_LANES = np.arange(WARP, dtype=np.uint32)
_BITS = np.uint32(1) << _LANES


def ballot(bits: Array) -> Array:
    """Booleans `[..., 32]` as words `[..., 1]`."""
    return (bits * _BITS).sum(-1, dtype=np.uint32, keepdims=True)


def check_members(machine: Machine, mask: Mask, members: Array) -> None:
    """Demands that the lanes a membermask names are exactly those that are here.

    Raises:
      PtxError: a named lane is elsewhere, or a lane that is here is not named.
    """
    named = machine.by_warp(members)
    if mask is None:
        if (named != np.uint32(2**32 - 1)).any():
            own = (named & _BITS) != 0
            if not own.all():
                raise PtxError("a lane that is not in the membermask")
            _same_in_warp(named, np.ones((1, 1, WARP), bool))
        return
    here = machine.by_warp(machine.everywhere(mask))
    arrived = ballot(here)
    if (here & ((named & _BITS) == 0)).any():
        raise PtxError("a lane that is not in the membermask")
    if (here & ((named & ~arrived) != 0)).any():
        raise PtxError("lanes of the membermask are not at this instruction")
    _same_in_warp(named, here)


def _same_in_warp(named: Array, here: Array) -> None:
    """Lanes may form several groups, each of which agrees on its mask."""
    for lane in range(WARP):
        claimed = named[..., lane : lane + 1]
        differs = here & here[..., lane : lane + 1] & ((claimed & _BITS) != 0) & (named != claimed)
        if differs.any():
            raise PtxError("lanes of one warp name different membermasks")


def _by_warp(machine: Machine, value: Array) -> Array:
    """As `Machine.by_warp`, with a 1 for what all threads have in common."""
    return value[..., None] if value.shape[1] == 1 else machine.by_warp(value)


def _flat(value: Array) -> Array:
    """`[ctas, warps, 32]` as registers have it."""
    return value.reshape(value.shape[0], -1)


@opcode("shfl")
def _shfl(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    m.need("sync")
    mode = m.need("idx", "up", "down", "bfly")
    m.need("b32")
    destination, *operands = i.operands
    predicate = None
    if isinstance(destination, Pair):
        destination, predicate = destination.first, destination.second
    write = c.assign(i, destination, "b32")
    also = None if predicate is None else c.assign(i, predicate, "pred")
    a, b, clamp, members = (c.source(i, operand, "b32") for operand in operands)

    def step(machine: Machine, mask: Mask) -> None:
        r = machine.registers
        check_members(machine, mask, members(r))
        values = machine.by_warp(a(r))
        offset, limits = (_by_warp(machine, each(r)) for each in (b, clamp))
        offset, clip = offset & np.uint32(31), limits & np.uint32(31)
        segment = limits >> np.uint32(8) & np.uint32(31)
        highest = (_LANES & segment) | (clip & ~segment)
        lowest = _LANES & segment
        if mode == "up":
            lane = (_LANES - offset).view(np.int32)
            inside = lane >= highest.view(np.int32)
        elif mode == "down":
            lane = (_LANES + offset).view(np.int32)
            inside = lane <= highest.view(np.int32)
        elif mode == "bfly":
            lane = (_LANES ^ offset).view(np.int32)
            inside = lane <= highest.view(np.int32)
        else:
            lane = (lowest | (offset & ~segment)).view(np.int32)
            inside = lane <= highest.view(np.int32)
        source = np.where(inside, lane, _LANES.view(np.int32))
        if mask is not None:
            _sources_here(machine, mask, source)
        shape = np.broadcast_shapes(values.shape, source.shape)
        if source.size == WARP:
            found = values[..., source.ravel()]
        else:
            found = np.take_along_axis(
                np.broadcast_to(values, shape), np.broadcast_to(source, shape).astype(np.int64), -1
            )
        write(machine, mask, _flat(found))
        if also is not None:
            also(machine, mask, _flat(np.broadcast_to(inside, shape)))

    return step


def _sources_here(machine: Machine, mask: Mask, source: Array) -> None:
    here = machine.by_warp(machine.everywhere(mask))
    there = np.take_along_axis(here, np.broadcast_to(source, here.shape).astype(np.int64), -1)
    if (here & ~there).any():
        raise PtxError("reads a lane that is not at this instruction")


def _groups(machine: Machine, mask: Mask, members: Array) -> Array:
    """Which lanes `[…, 32, 32]` each lane is joined with."""
    check_members(machine, mask, members)
    if (members == np.uint32(2**32 - 1)).all():
        return np.ones((1, 1, 1, WARP), bool)
    return (machine.by_warp(members)[..., None] & _BITS) != 0


def _reduce_step(
    write: Callable[[Machine, Mask, Array], None],
    source: Source,
    members: Source,
    reduce: Callable[[Array, Array], Array],
) -> Step:
    """A step whose result for a lane is made of its group's values."""

    def step(machine: Machine, mask: Mask) -> None:
        r = machine.registers
        groups = _groups(machine, mask, members(r))
        values = machine.by_warp(source(r))[..., None, :]
        results = reduce(values, groups)
        write(machine, mask, _flat(np.broadcast_to(results, (*results.shape[:-1], WARP))))

    return step


@opcode("vote")
def _vote(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    m.need("sync")
    mode = m.need("all", "any", "uni", "ballot")
    kind = m.type("b32" if mode == "ballot" else "pred")
    destination, source, members = i.operands
    reductions: dict[str, Callable[[Array, Array], Array]] = {
        "ballot": lambda values, groups: ballot(values & groups)[..., 0],
        "all": lambda values, groups: (values | ~groups).all(-1),
        "any": lambda values, groups: (values & groups).any(-1),
        "uni": lambda values, groups: (values | ~groups).all(-1) | ~(values & groups).any(-1),
    }
    return _reduce_step(
        c.assign(i, destination, kind),
        c.source(i, source, "pred"),
        c.source(i, members, "b32"),
        reductions[mode],
    )


_REDUCTIONS: dict[str, tuple[Any, Callable[[np.dtype], int]]] = {
    "add": (np.add, lambda dtype: 0),
    "and": (np.bitwise_and, lambda dtype: 2**32 - 1),
    "or": (np.bitwise_or, lambda dtype: 0),
    "xor": (np.bitwise_xor, lambda dtype: 0),
    "min": (np.minimum, lambda dtype: np.iinfo(dtype).max),
    "max": (np.maximum, lambda dtype: np.iinfo(dtype).min),
}


@opcode("redux")
def _redux(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    m.need("sync")
    name = m.need(*_REDUCTIONS)
    kind = m.type(*(("b32",) if name in ("and", "or", "xor") else ("u32", "s32")))
    function, neutral = _REDUCTIONS[name]
    dtype = dtype_of(kind)
    nothing = dtype.type(neutral(dtype))

    def reduce(values: Array, groups: Array) -> Array:
        return function.reduce(np.where(groups, values, nothing), axis=-1, dtype=dtype)

    destination, source, members = i.operands
    return _reduce_step(
        c.assign(i, destination, kind),
        c.source(i, source, kind),
        c.source(i, members, "b32"),
        reduce,
    )


@opcode("match")
def _match(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    mode = m.need("any", "all")
    m.need("sync")
    kind = m.type("b32", "b64")
    destination, operand, membermask = i.operands
    predicate = None
    if isinstance(destination, Pair):
        destination, predicate = destination.first, destination.second
    if predicate is not None and mode == "any":
        raise i.error("match.any has no predicate")
    write = c.assign(i, destination, "b32")
    also = None if predicate is None else c.assign(i, predicate, "pred")
    source, members = c.source(i, operand, kind), c.source(i, membermask, "b32")

    def step(machine: Machine, mask: Mask) -> None:
        r = machine.registers
        groups = _groups(machine, mask, members(r))
        values = machine.by_warp(source(r))
        same = (values[..., None] == values[..., None, :]) & groups
        if mode == "any":
            write(machine, mask, _flat(ballot(same)[..., 0]))
            return
        agreed = (same | ~groups).all(-1)
        write(machine, mask, _flat(np.where(agreed, ballot(groups)[..., 0], np.uint32(0))))
        if also is not None:
            also(machine, mask, _flat(agreed))

    return step


@opcode("activemask")
def _activemask(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    m.need("b32")
    write = c.assign(i, i.operands[0], "b32")

    def step(machine: Machine, mask: Mask) -> None:
        here = ballot(machine.by_warp(machine.everywhere(mask)))
        write(machine, mask, _flat(np.broadcast_to(here, (machine.ctas, machine.warps, WARP))))

    return step


@opcode("elect")
def _elect(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    m.need("sync")
    pair, membermask = i.operands
    if not isinstance(pair, Pair):
        raise i.error("expected lane|predicate")
    write, also = c.assign(i, pair.first, "b32"), c.assign(i, pair.second, "pred")
    members = c.source(i, membermask, "b32")

    def step(machine: Machine, mask: Mask) -> None:
        named = members(machine.registers)
        check_members(machine, mask, named)
        lowest = np.bitwise_count((named & -named.view(np.int32).view(np.uint32)) - np.uint32(1))
        leader = machine.by_warp(lowest.astype(np.uint32))
        write(machine, mask, _flat(leader))
        also(machine, mask, _flat(leader == _LANES))

    return step
