"""Compiled PTX, run by NumPy: every access checked, all threads of many CTAs at a time.

program = Program.parse(kernel.asm["ptx"])
launch(program, grid=(4,), args=[x, out, x.size], shared_bytes=kernel.metadata.shared)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Importing an opcode's module is what makes it known.
from tests.ptx import (  # noqa: F401
    accesses,
    atomics,
    bits,
    comparisons,
    copies,
    floats,
    integers,
    matrices,
    moves,
    tensor,
    warp,
    wgmma,
)
from tests.ptx.compiler import SHARED_BASE, Compiler, compile_instruction, unsigned
from tests.ptx.control import compile_end, ends_block, fall_through, past_the_end
from tests.ptx.errors import PtxError
from tests.ptx.machine import WARP, Array, Block, Machine, run
from tests.ptx.memory import GlobalMemory
from tests.ptx.parser import parse
from tests.ptx.shared import SharedMemory
from tests.ptx.syntax import TYPE_BITS, Module, Parameter

type Argument = Array | int | float | np.generic | None

# Triton's kernels end with the addresses of two scratch areas.
_SCRATCH_PARAMETERS = 2
# The shared memory of the CTAs that run together is kept within a processor's cache.
_SHARED_BYTES = 1 << 21


@dataclass(frozen=True)
class Program:
    """A kernel ready to run.

    Attributes:
      module: what the text says.
      blocks: its instructions as closures.
      compiler: knows where constants and special registers are.
    """

    module: Module
    blocks: tuple[Block, ...]
    compiler: Compiler

    @classmethod
    def parse(cls, text: str) -> Program:
        """Compiles the one kernel of a PTX text.

        Raises:
          PtxError: an opcode, a modifier or an operand that is not known, with its line.
        """
        module = parse(text)
        compiler = Compiler(module)
        return cls(module, tuple(_blocks(module, compiler)), compiler)


@dataclass(frozen=True)
class Run:
    """What a launch did.

    Attributes:
      instructions: instructions executed, one for all threads that executed it together.
      batches: how many batches of CTAs the grid was cut into.
    """

    instructions: int
    batches: int


def _blocks(module: Module, compiler: Compiler) -> Iterable[Block]:
    instructions = module.instructions
    targets = {
        i.scope.label(getattr(operand, "text", ""))
        for i in instructions
        if i.opcode == "bra"
        for operand in i.operands
    }
    starts = {0, len(instructions)} | {at for at in targets if at is not None}
    starts |= {at + 1 for at, each in enumerate(instructions) if ends_block(each)}
    ordered = sorted(starts)
    block_at = {at: number for number, at in enumerate(ordered)}
    for number, (start, stop) in enumerate(itertools.pairwise(ordered)):
        inside = instructions[start:stop]
        last = inside[-1] if ends_block(inside[-1]) else None
        body = inside[:-1] if last else inside
        end = (
            compile_end(compiler, last, number + 1, block_at) if last else fall_through(number + 1)
        )
        steps = [compile_instruction(compiler, each) for each in body]
        yield Block(steps, body, end, last)
    yield Block([], [], past_the_end, None)


def _parameter(parameter: Parameter, argument: Argument, memory: GlobalMemory) -> Array:
    """An argument's bits."""
    dtype = unsigned(TYPE_BITS[parameter.type])
    if parameter.count > 1:
        raise PtxError(f"{parameter.name} is an array, which cannot be passed")
    if argument is None:
        return np.zeros((1, 1), dtype)
    if isinstance(argument, np.ndarray) and argument.ndim:
        if dtype.itemsize != 8:
            raise PtxError(f"{parameter.name} is no pointer")
        return np.full((1, 1), memory.add(parameter.name, argument), dtype)
    if parameter.pointer:
        raise PtxError(f"{parameter.name} is a pointer, not a number")
    if isinstance(argument, float | np.floating):
        kind = np.dtype(f"f{dtype.itemsize}")
        return np.full((1, 1), argument, kind).view(dtype)
    value = int(argument)
    width = 8 * dtype.itemsize
    if not -(1 << width - 1) <= value < 1 << width:
        raise PtxError(f"{parameter.name} has {width} bits, too few for {value}")
    return np.full((1, 1), value & (1 << width) - 1, dtype)


def _thread_shape(program: Program, threads: int | Sequence[int] | None) -> tuple[int, int, int]:
    required = program.module.threads
    given = (threads,) if isinstance(threads, int) else tuple(threads or ())
    if given:
        x, y, z = (*given, 1, 1)[:3]
        shape = (x, y, z)
    elif required is not None:
        shape = required
    else:
        raise PtxError("the kernel does not say how many threads it has: pass threads=")
    if required is not None and shape != required:
        raise PtxError(f"the kernel requires {required} threads")
    if not 0 < int(np.prod(shape)) <= 1024 or int(np.prod(shape)) % WARP:
        raise PtxError(f"{shape} is no multiple of {WARP} threads up to 1024")
    return shape


def _shared_bytes(program: Program, dynamic: int | None) -> int:
    if program.compiler.dynamic_shared and dynamic is None:
        raise PtxError("the kernel has dynamic shared memory: pass shared_bytes=")
    return program.compiler.static_shared_bytes + (dynamic or 0)


def _granule(program: Program) -> int:
    """Bytes of the smallest access of shared memory, 4 at most."""
    narrow = {
        TYPE_BITS[part] // 8
        for each in program.module.instructions
        if {"shared", "shared::cta"} & {*each.modifiers}
        for part in each.modifiers
        if part in TYPE_BITS
    }
    return min({4, *narrow})


def _special(
    name: str, ctas: Array, grid: tuple[int, int, int], shape: tuple[int, int, int]
) -> Array:
    """A special register's values for some CTAs of the grid."""
    thread = np.arange(int(np.prod(shape)), dtype=np.uint32)[None]
    lane = thread % np.uint32(WARP)
    axis = "xyz".find(name[-1])
    before = np.uint32(np.prod((grid if "cta" in name else shape)[: max(axis, 0)], dtype=np.int64))
    match name[1:].split("."):
        case ["tid", _]:
            return thread // before % np.uint32(shape[axis])
        case ["ctaid", _]:
            return ctas[:, None] // before % np.uint32(grid[axis])
        case ["ntid", _]:
            return np.full((1, 1), shape[axis], np.uint32)
        case ["nctaid", _]:
            return np.full((1, 1), grid[axis], np.uint32)
        case ["laneid"]:
            return lane
        case ["warpid"]:
            return thread // np.uint32(WARP)
        case ["nwarpid"]:
            return np.full((1, 1), thread.size // WARP, np.uint32)
    own = np.uint32(1) << lane
    return {
        "eq": own,
        "lt": own - np.uint32(1),
        "le": own | own - np.uint32(1),
        "gt": ~(own | own - np.uint32(1)),
        "ge": ~(own - np.uint32(1)),
    }[name[-2:]]


def launch(
    program: Program,
    grid: Sequence[int],
    args: Sequence[Argument],
    *,
    threads: int | Sequence[int] | None = None,
    shared_bytes: int | None = None,
    batch_threads: int = 1 << 15,
    instruction_limit: int = 1 << 22,
) -> Run:
    """Runs a kernel.

    Args:
      program: the kernel.
      grid: numbers of CTAs along x, y and z; those left out are 1.
      args: the kernel's arguments in its own order: arrays (written in place), numbers, or None
        for a null pointer. Triton's two scratch pointers at the end may be left out.
      threads: threads of a CTA, where the kernel does not say.
      shared_bytes: size of the dynamic shared memory.
      batch_threads: about how many threads run together, which bounds the memory taken.
      instruction_limit: of those that run together; past it the kernel is taken not to end.

    Returns:
      counts of what was executed.

    Raises:
      PtxError: whatever the kernel does that is not allowed, with its line; the arrays are then
        as they were.
    """
    module = program.module
    nx, ny, nz = (*(int(n) for n in grid), 1, 1, 1)[:3]
    total = nx * ny * nz
    if total < 1 or len(grid) > 3:
        raise PtxError(f"no grid {tuple(grid)}")
    given = list(args)
    if len(given) + _SCRATCH_PARAMETERS == len(module.parameters):
        given += [None] * _SCRATCH_PARAMETERS
    if len(given) != len(module.parameters):
        raise PtxError(f"{len(module.parameters)} parameters, but {len(args)} arguments")
    memory = GlobalMemory()
    parameters = [
        _parameter(parameter, argument, memory)
        for parameter, argument in zip(module.parameters, given, strict=True)
    ]
    shape = _thread_shape(program, threads)
    of_cta = int(np.prod(shape))
    size = _shared_bytes(program, shared_bytes)
    together = max(1, min(batch_threads // of_cta, _SHARED_BYTES // max(size, 1)))
    granule = _granule(program)
    instructions = batches = 0
    for first in range(0, total, together):
        ctas = np.arange(first, min(first + together, total), dtype=np.uint32)
        shared = SharedMemory(len(ctas), size, SHARED_BASE, granule=granule, follow=of_cta > WARP)
        machine = Machine(
            program.compiler.places, first, len(ctas), of_cta, memory, shared, parameters
        )
        _fill(program, machine, ctas, (nx, ny, nz), shape)
        run(machine, program.blocks, instruction_limit)
        instructions, batches = instructions + machine.instructions, batches + 1
    memory.write_back()
    return Run(instructions, batches)


def _fill(
    program: Program,
    machine: Machine,
    ctas: Array,
    grid: tuple[int, int, int],
    shape: tuple[int, int, int],
) -> None:
    """Puts constants and special registers at their places."""
    registers: list[Any] = machine.registers
    for place, value in program.compiler.fixed.items():
        registers[place] = value
    for name, place in program.compiler.special.items():
        registers[place] = _special(name, ctas, grid, shape)
