"""Branches, barriers and ends: what a block of instructions ends with."""

from __future__ import annotations

from collections.abc import Callable

from tests.ptx.compiler import Compiler, Modifiers, opcode
from tests.ptx.errors import PtxError
from tests.ptx.machine import Array, Machine, Mask, Schedule, Step
from tests.ptx.syntax import Instruction, Name
from tests.ptx.warp import check_members

type End = Callable[[Machine, Schedule, Mask], None]


def ends_block(instruction: Instruction) -> bool:
    """Whether threads can part, wait or end here."""
    if instruction.opcode in ("bra", "ret", "exit", "trap"):
        return True
    return instruction.opcode in ("bar", "barrier") and "warp" not in instruction.modifiers


def fall_through(block: int) -> End:
    """The next block follows."""
    return lambda machine, schedule, mask: schedule.go(block, mask)


def past_the_end(machine: Machine, schedule: Schedule, mask: Mask) -> None:
    """There is no next block."""
    raise PtxError("runs past the kernel's end")


def compile_end(
    compiler: Compiler, instruction: Instruction, following: int, block_at: dict[int, int]
) -> End:
    """Compiles the last instruction of a block.

    Args:
      compiler: of the kernel.
      instruction: for which `ends_block` holds.
      following: number of the next block.
      block_at: number of the block that begins at an instruction.
    """
    i, m = instruction, Modifiers(instruction)
    match i.opcode:
        case "bra":
            m.take("uni")
            target = i.operands[0]
            at = i.scope.label(target.text) if isinstance(target, Name) else None
            if at is None or len(i.operands) != 1:
                raise i.error("an unknown label")
            end = fall_through(block_at[at])
        case "ret" | "exit":
            end = _leave
        case "trap":
            end = _trap
        case _:
            end = _barrier(compiler, i, m, following)
    m.end()
    if i.guard is None:
        return end
    return _guarded(compiler, i, end, following)


def _leave(machine: Machine, schedule: Schedule, mask: Mask) -> None:
    """Threads that end are at no block any more."""


def _trap(machine: Machine, schedule: Schedule, mask: Mask) -> None:
    raise PtxError("trap")


def _guarded(compiler: Compiler, i: Instruction, end: End, following: int) -> End:
    place, negated = compiler.register(i, i.guard).number if i.guard else 0, i.guard_negated
    if compiler.register(i, i.guard or Name("")).type != "pred":
        raise i.error("the guard is no predicate")

    def part(machine: Machine, schedule: Schedule, mask: Mask) -> None:
        chosen: Array = machine.registers[place]
        if negated:
            chosen = ~chosen
        here = chosen if mask is None else chosen & mask
        rest = ~chosen if mask is None else ~chosen & mask
        if not rest.any():
            end(machine, schedule, mask)
        elif not here.any():
            schedule.go(following, mask)
        else:
            end(machine, schedule, here)
            schedule.go(following, rest)

    return part


def _barrier(c: Compiler, i: Instruction, m: Modifiers, following: int) -> End:
    m.take("cta")
    m.need("sync")
    aligned = m.take("aligned") is not None or i.opcode == "bar"
    if len(i.operands) not in (1, 2):
        raise i.error("expected a barrier and perhaps a number of threads")
    reads = [c.source(i, operand, "u32") for operand in i.operands]

    def barrier(machine: Machine, schedule: Schedule, mask: Mask) -> None:
        if aligned:
            machine.whole_warps(mask)
        numbers = [_uniform(machine, mask, read(machine.registers)) for read in reads]
        count = numbers[1] if len(numbers) > 1 else None
        if numbers[0] > 15 or (count is not None and (count % 32 or count > machine.threads)):
            raise PtxError(f"no barrier {numbers}")
        schedule.arrive(numbers[0], count, following, mask)

    return barrier


def _proxy_fence(machine: Machine, mask: Mask) -> None:
    """Each writing thread must fence: it counts once all threads of a CTA do."""
    machine.shared.fence(None if mask is None else machine.everywhere(mask).all(axis=1))


def _uniform(machine: Machine, mask: Mask, value: Array) -> int:
    found = machine.full(value)[machine.everywhere(mask)]
    if (found != found[0]).any():
        raise PtxError("threads name different barriers")
    return int(found[0])


@opcode("bar", "barrier")
def _warp_barrier(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    m.need("warp")
    m.need("sync")
    members = c.source(i, i.operands[0], "b32")
    return lambda machine, mask: check_members(machine, mask, members(machine.registers))


@opcode("membar", "fence")
def _fence(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    """Memory is written in one order here: only the fence between proxies matters."""
    if i.opcode == "membar":
        m.need("cta", "gl", "sys")
    elif m.take("proxy"):
        m.need("async", "async::generic")
        m.take("shared", "shared::cta")
        return _proxy_fence
    else:
        m.take("acq_rel", "sc", "acquire", "release")
        m.need("cta", "cluster", "gpu", "sys")
    return lambda machine, mask: None
