"""Kernels that measure a GPU: their loops hold the instruction that they count, and little else."""

from typing import Any

import numpy as np
import pytest

from tests.ptx.program import Program
from tests.ptx.program import launch as run
from tests.triton_kernels.compiled import Sass, compiled
from triton_kernels import ceilings

TURNS = 16


@pytest.mark.parametrize(
    ("kernel", "opcode", "a_turn", "target"),
    [
        (ceilings.lop3_kernel, "LOP3", ceilings.LOP3_A_TURN, 75),
        (ceilings.lop3_kernel, "LOP3", ceilings.LOP3_A_TURN, 90),
        (ceilings.popc_kernel, "POPC", ceilings.POPC_A_TURN, 90),
        (ceilings.bmma_kernel, "BMMA", ceilings.MMA_A_TURN, 80),
        (ceilings.bmma_kernel, "BMMA", ceilings.MMA_A_TURN, 90),
    ],
    ids=["lop3_75", "lop3_90", "popc_90", "bmma_80", "bmma_90"],
)
def test_a_loop_is_the_instruction_that_it_counts(
    kernel: Any, opcode: str, a_turn: int, target: int
) -> None:
    launch = ceilings.launch(kernel, blocks=4, turns=TURNS)
    constants, options = (tuple(d.items()) for d in (launch.constants, launch.options))
    code = Sass(compiled(launch.kernel, ("uint32", "uint32"), (), constants, options, target))
    assert code.stack == 0
    count = code.opcodes[opcode]
    assert count >= a_turn  # ptxas unrolls by what it likes
    assert sum(code.opcodes.values()) < 1.2 * count + 80


def test_products_of_warpgroups_are_counted_and_right() -> None:
    launch = ceilings.launch(ceilings.wgmma_kernel, blocks=2, turns=3)
    constants, options = (tuple(d.items()) for d in (launch.constants, launch.options))
    kernel = compiled(launch.kernel, ("uint32", "uint32"), (), constants, options, 90)
    code = Sass(kernel)
    assert code.stack == 0
    assert code.opcodes["BGMMA"] % ceilings.WGMMA_A_TURN == 0
    assert code.opcodes["BGMMA"] > 0

    seeds = np.random.default_rng(0).integers(0, 1 << 32, ceilings.threads(), dtype=np.uint32)
    y = np.zeros((2, ceilings.threads()), np.uint32)
    program = Program.parse(kernel.asm["ptx"])
    run(program, (2,), [seeds.copy(), y], shared_bytes=kernel.metadata.shared)
    place = np.arange(8192, dtype=np.uint32)
    bits = seeds[place % len(seeds)] * (2 * place + 1)
    # Pieces of four words: 16 along K, each of 128 pixels or of 128 channels.
    a, b = bits.reshape(16, 128, 4), ~bits.reshape(16, 128, 4)
    once = np.array([np.bitwise_count(a[:, i, None] & b).sum() for i in range(128)])
    wanted = np.tile(3 * once, 2).astype(np.uint32)
    np.testing.assert_array_equal(y, [wanted, wanted])
