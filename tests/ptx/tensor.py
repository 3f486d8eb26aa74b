"""`mma.sync` on one-bit matrices, after the fragment tables of the PTX ISA.

A lane is `4 * group + member`. A lane's words are 32 columns of A (rows of B) each; A is row by
row, B column by column, so a word of either is 32 steps of K.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.ptx.compiler import Compiler, Modifiers, opcode
from tests.ptx.machine import Array, Machine, Mask, Step
from tests.ptx.syntax import Instruction


@dataclass(frozen=True)
class Shape:
    """How many registers a lane has, in rows of 8 and steps of 128 along K."""

    row_blocks: int
    steps: int


SHAPES = {"m8n8k128": Shape(1, 1), "m16n8k128": Shape(2, 1), "m16n8k256": Shape(2, 2)}

PRODUCTS: dict[str, Callable[[Array, Array], Array]] = {
    "xor": np.bitwise_xor,
    "and": np.bitwise_and,
}


def _by_member(machine: Machine, steps: list[Array]) -> Array:
    """A lane's registers along K as `[member, ctas, warps, group]`; two are one 64-bit word."""
    words = steps[0]
    if len(steps) == 2:
        words = words.astype(np.uint64) | steps[1].astype(np.uint64) << np.uint64(32)
    of_lanes = machine.by_warp(words)
    of_lanes = of_lanes.reshape(*of_lanes.shape[:2], 8, 4)
    return np.ascontiguousarray(of_lanes.transpose(3, 0, 1, 2))


@opcode("mma")
def _mma(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    m.need("sync")
    m.need("aligned")
    shape = SHAPES[m.need(*SHAPES)]
    m.need("row")
    m.need("col")
    product = PRODUCTS[m.need("xor", "and")]
    m.need("popc")
    if [m.left.pop(0) if m.left else "" for _ in range(4)] != ["s32", "b1", "b1", "s32"]:
        raise i.error("only .s32.b1.b1.s32")
    d, a, b, start = i.operands
    blocks, steps = shape.row_blocks, shape.steps
    writes = [c.assign(i, item, "s32") for item in c.items(i, d, 2 * blocks)]
    of_a = [c.source(i, item, "b32") for item in c.items(i, a, blocks * steps)]
    of_b = [c.source(i, item, "b32") for item in c.items(i, b, steps)]
    of_c = [c.source(i, item, "s32") for item in c.items(i, start, 2 * blocks)]

    def step(machine: Machine, mask: Mask) -> None:
        machine.whole_warps(mask)
        r = machine.registers
        right = _by_member(machine, [read(r) for read in of_b])[..., None, :]
        starts = [read(r) for read in of_c]
        results = []
        for block in range(blocks):
            left = _by_member(machine, [of_a[block + blocks * k](r) for k in range(steps)])
            ones = np.bitwise_count(product(left[..., None], right))
            counts = ones.sum(axis=0, dtype=np.int32)
            # Row `group`, columns 2 * member and 2 * member + 1 are the lane's own.
            pairs = counts.reshape(counts.shape[0], machine.threads, 2)
            for column in range(2):
                results.append(starts[2 * block + column] + pairs[..., column])
        for write, value in zip(writes, results, strict=True):
            write(machine, mask, value)

    return step
