"""The state of a batch of CTAs, and the schedule of its threads.

Registers are arrays `[ctas, threads]`, with a 1 in place of an axis along which a value does not
change: a loop counter is `[1, 1]`, a CTA's index `[ctas, 1]`, a thread's `[1, threads]`. They are
never written in place. Threads that part run apart, the lowest block of the text first, and go on
together where they meet again. So a thread must not wait for another in a loop: barriers are the
only places to wait at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.ptx.errors import AddressError, PtxError
from tests.ptx.memory import GlobalMemory
from tests.ptx.shared import Accessors, SharedMemory
from tests.ptx.syntax import Instruction, names_in

type Array = np.ndarray[Any, Any]
type Mask = Array | None  # None: every thread of the batch
type Step = Callable[[Machine, Mask], None]

WARP = 32
SPECIAL_REGISTERS = frozenset(
    [f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"]
    + ["%laneid", "%warpid", "%nwarpid"]
    + [f"%lanemask_{which}" for which in ("eq", "lt", "le", "gt", "ge")]
)


class Machine:
    """A batch of CTAs that run together.

    Attributes:
      registers: one array a register, see the module's text; None where nothing was written.
      first_cta: number of the first CTA of the batch in its grid.
      ctas: number of CTAs in the batch.
      threads: threads of each.
      memory: the global memory.
      shared: the shared memory of every CTA.
      parameters: the kernel's parameters, unsigned `[1, 1]`.
      commits: committed groups of `cp.async` of each thread.
      copies: the `cp.async` that no thread has waited for.
      accessors: who a thread is to the shared memory.
      products: the `wgmma` that are not waited for.
      fenced: values in registers at the last `wgmma.fence`, by identity.
    """

    def __init__(
        self,
        places: int,
        first_cta: int,
        ctas: int,
        threads: int,
        memory: GlobalMemory,
        shared: SharedMemory,
        parameters: Sequence[Array],
    ) -> None:
        self.registers: list[Any] = [None] * places
        self.first_cta = first_cta
        self.ctas = ctas
        self.threads = threads
        self.warps = threads // WARP
        self.shape = (ctas, threads)
        self.memory = memory
        self.shared = shared
        self.parameters = parameters
        self.accessors = Accessors(
            np.arange(ctas, dtype=np.int64)[:, None],
            (np.arange(threads) // WARP + 1).astype(np.uint8)[None],
        )
        self.commits = np.zeros(self.shape, np.int64)
        self.copies: list[Any] = []
        self.products: list[Any] = []
        self.fenced: dict[int, Any] = {}
        self.instructions = 0

    def everywhere(self, mask: Mask) -> Array:
        """A mask of the whole shape."""
        return np.broadcast_to(np.True_ if mask is None else mask, self.shape)

    def full(self, value: Array) -> Array:
        """A value of the whole shape."""
        return np.broadcast_to(value, self.shape)

    def by_warp(self, value: Array) -> Array:
        """A value as `[ctas or 1, warps, 32]`."""
        rows = value.shape[0]
        if value.shape[1] == self.threads:
            return value.reshape(rows, self.warps, WARP)
        return np.broadcast_to(value, (rows, self.threads)).reshape(rows, self.warps, WARP)

    def picked(self, mask: Mask, value: Array) -> Array:
        """What the threads of a mask have, in one row; the value itself where that is None."""
        return value if mask is None else self.full(value)[self.everywhere(mask)]

    def who(self, mask: Mask) -> Accessors:
        """The accessors that go with `picked` addresses."""
        if mask is None:
            return self.accessors
        return Accessors(
            self.picked(mask, self.accessors.ctas), self.picked(mask, self.accessors.tags)
        )

    def blame(self, mask: Mask, addresses: Array, error: AddressError) -> PtxError:
        """The same error with the first thread that has its address."""
        guilty = self.everywhere(mask) & (addresses == np.uint64(error.address))
        cta, thread = (int(each[0]) for each in np.nonzero(guilty))
        return PtxError(f"{error} (thread {thread} of CTA {self.first_cta + cta})")

    def whole_warps(self, mask: Mask) -> None:
        """Demands that no warp is at an instruction with only some of its threads."""
        if mask is not None:
            here = self.by_warp(self.everywhere(mask))
            if (here.any(-1) != here.all(-1)).any():
                raise PtxError("only some threads of a warp are at a .aligned instruction")


@dataclass
class Block:
    """Instructions between two places where threads can part or meet.

    Attributes:
      steps: the closures.
      instructions: what they were compiled from.
      end: how the block ends: hands threads to other blocks of the schedule.
    """

    steps: list[Step]
    instructions: list[Instruction]
    end: Callable[[Machine, Schedule, Mask], None]
    end_instruction: Instruction | None


class Schedule:
    """Which threads stand at which block, and which wait at a barrier."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.ready: dict[int, Mask] = {0: None}
        self.waiting: dict[int, list[tuple[int, Array]]] = {}

    def go(self, block: int, mask: Mask) -> None:
        """Threads arrive at the beginning of a block."""
        if block in self.ready:
            other = self.ready[block]
            mask = None if mask is None or other is None else mask | other
        if mask is not None and mask.all():
            mask = None
        self.ready[block] = mask

    def arrive(self, barrier: int, threads: int | None, block: int, mask: Mask) -> None:
        """Threads arrive at a barrier; those of complete CTAs go on to a block."""
        machine = self.machine
        if mask is None and (threads is None or threads == machine.threads):
            machine.shared.barrier(None)
            self.go(block, None)
            return
        waiting = self.waiting.setdefault(barrier, [])
        waiting.append((block, np.array(machine.everywhere(mask))))
        arrived = np.count_nonzero([each for _, each in waiting], axis=(0, 2))
        wanted = machine.threads if threads is None else threads
        if np.any(arrived > wanted):
            raise PtxError(f"more threads than {wanted} at barrier {barrier}")
        complete = (arrived == wanted)[:, None]
        if not complete.any():
            return
        machine.shared.barrier(complete[:, 0], partial=wanted != machine.threads)
        self.waiting[barrier] = []
        for where, here in waiting:
            if (here & complete).any():
                self.go(where, here & complete)
            if (here & ~complete).any():
                self.waiting[barrier].append((where, here & ~complete))


def run(machine: Machine, blocks: Sequence[Block], limit: int) -> None:
    """Runs every thread of a machine to its end.

    Args:
      machine: with its registers filled.
      blocks: the program.
      limit: of instructions: a program that runs longer is taken not to end.

    Raises:
      PtxError: what the program does wrong, with the line.
    """
    schedule = Schedule(machine)
    ready = schedule.ready
    with np.errstate(all="ignore"):
        while ready:
            number = min(ready)
            mask = ready.pop(number)
            block = blocks[number]
            step: Any = None
            try:
                for step in block.steps:
                    step(machine, mask)
                step = None
                block.end(machine, schedule, mask)
            except Exception as error:
                at = block.end_instruction if step is None else None
                if step is not None:
                    at = block.instructions[block.steps.index(step)]
                raise _located(error, machine, at) from error
            machine.instructions += len(block.steps) + 1
            if machine.instructions > limit:
                raise PtxError(f"no end after {limit} instructions")
    for barrier, groups in schedule.waiting.items():
        for _, here in groups:
            cta = int(np.flatnonzero(here.any(axis=1))[0])
            raise PtxError(
                f"{int(here[cta].sum())} threads of CTA {cta} wait at barrier {barrier} "
                f"for others that have ended or wait elsewhere"
            )


def _located(error: Exception, machine: Machine, at: Instruction | None) -> PtxError:
    where = f"line {at.line}: {at.text}" if at else "past the last instruction"
    if isinstance(error, PtxError):
        return PtxError(f"{error}; {where}")
    if at is not None and (unwritten := _unwritten(machine, at)):
        return PtxError(f"reads {', '.join(unwritten)}, which nothing has written; {where}")
    return PtxError(f"{type(error).__name__}: {error}; {where}")


def _unwritten(machine: Machine, at: Instruction) -> list[str]:
    """The registers that an instruction reads and nothing has written."""
    first = 0 if at.opcode in ("st", "red", "bra", "bar", "barrier", "stmatrix") else 1
    names = [name for operand in at.operands[first:] for name in names_in(operand)]
    names += [at.guard.text] if at.guard else []
    found = ((name, at.scope.register(name)) for name in names)
    return [name for name, each in found if each and machine.registers[each.number] is None]
