"""atom and red."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.ptx.accesses import take_caching, take_ordering, take_space
from tests.ptx.compiler import Compiler, Modifiers, Source, dtype_of, opcode, unsigned
from tests.ptx.machine import Array, Machine, Mask, Step
from tests.ptx.shared import ATOMICS, Accessors
from tests.ptx.syntax import TYPE_BITS, Instruction

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
    take_ordering(m)
    m.take("cta", "cluster", "gpu", "sys")
    space = take_space(m)
    name = m.need(*_UPDATES, "cas")
    kind = m.type("b32", "b64", "u32", "u64", "s32", "s64")
    arity = 2 if name == "cas" else 1
    returns = i.opcode == "atom"
    if not returns and name in ("cas", "exch"):
        raise i.error(f"no red.{name}")
    take_caching(c, i, m, returns + 1 + arity)
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
