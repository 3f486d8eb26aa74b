"""Kernels that measure a GPU: their loops hold the instruction that they count, and little else."""

from typing import Any

import pytest

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
