"""`cp.async`: copies to shared memory that arrive when they are waited for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.ptx.accesses import HINTS, load, store
from tests.ptx.compiler import Compiler, Modifiers, opcode
from tests.ptx.errors import PtxError
from tests.ptx.machine import Array, Machine, Mask, Step
from tests.ptx.syntax import Instruction, Number


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
    while m.take(*HINTS):
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
