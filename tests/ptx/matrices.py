"""ldmatrix and stmatrix: 8x8 matrices of 16-bit elements between shared memory and a warp."""

from __future__ import annotations

import numpy as np

from tests.ptx.accesses import load, store
from tests.ptx.compiler import Compiler, Modifiers, opcode
from tests.ptx.machine import WARP, Array, Machine, Mask, Step
from tests.ptx.memory import check_alignment
from tests.ptx.syntax import Instruction

_LANE = np.arange(WARP)


def _form(m: Modifiers) -> tuple[int, bool]:
    """The number of matrices, and whether they are transposed."""
    m.need("sync")
    m.need("aligned")
    m.need("m8n8")
    count = int(m.need("x1", "x2", "x4")[1:])
    transposed = m.take("trans") is not None
    m.need("shared", "shared::cta")
    m.type("b16")
    return count, transposed


def _element_addresses(
    machine: Machine, mask: Mask, rows: Array, matrix: int, row: Array, offset: Array
) -> Array:
    """Addresses inside a matrix; lane 8 * matrix + row has that of a row.

    Args:
      machine: whose warps these are.
      mask: the threads.
      rows: what each lane has as an address.
      matrix: number of the matrix.
      row: `[32]`, the row that each lane wants.
      offset: `[32]`, bytes from there.
    """
    chosen = machine.by_warp(rows)[..., 8 * matrix + row]
    chosen = chosen.reshape(chosen.shape[0], -1)
    check_alignment(machine.picked(mask, chosen), 16)
    return chosen + np.tile(offset.astype(np.uint64), machine.warps)


@opcode("ldmatrix")
def _ldmatrix(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    count, transposed = _form(m)
    writes = [c.assign(i, item, "b32") for item in c.items(i, i.operands[0], count)]
    address = c.address(i, i.operands[1])

    def step(machine: Machine, mask: Mask) -> None:
        machine.whole_warps(mask)
        addresses = address(machine.registers)
        for matrix, write in enumerate(writes):
            if not transposed:
                at = _element_addresses(machine, mask, addresses, matrix, _LANE // 4, _LANE % 4 * 4)
                (word,) = load(machine, mask, "shared", at, np.dtype(np.uint32), 1)
            else:
                halves = []
                for half in range(2):
                    at = _element_addresses(
                        machine, mask, addresses, matrix, _LANE % 4 * 2 + half, _LANE // 4 * 2
                    )
                    halves += load(machine, mask, "shared", at, np.dtype(np.uint16), 1)
                low, high = (each.astype(np.uint32) for each in halves)
                word = low | high << np.uint32(16)
            write(machine, mask, word)

    return step


@opcode("stmatrix")
def _stmatrix(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    count, transposed = _form(m)
    address = c.address(i, i.operands[0])
    reads = [c.source(i, item, "b32") for item in c.items(i, i.operands[1], count)]

    def step(machine: Machine, mask: Mask) -> None:
        machine.whole_warps(mask)
        addresses = address(machine.registers)
        for matrix, read in enumerate(reads):
            word = read(machine.registers)
            if not transposed:
                at = _element_addresses(machine, mask, addresses, matrix, _LANE // 4, _LANE % 4 * 4)
                store(machine, mask, "shared", at, [word])
                continue
            for half in range(2):
                at = _element_addresses(
                    machine, mask, addresses, matrix, _LANE % 4 * 2 + half, _LANE // 4 * 2
                )
                part = (word >> np.uint32(16 * half)).astype(np.uint16)
                store(machine, mask, "shared", at, [part])

    return step
