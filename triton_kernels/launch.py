"""What it takes to launch a kernel, but for its arrays."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Launch:
    """A kernel and its geometry: for a program that lowers it, and for a test that compiles it.

    A kernel's parameters are its input arrays, its sizes, its output array and its constants, in
    this order.

    Attributes:
      kernel: the Triton or Gluon function.
      blocks: how many of its programs run; they are numbered along axis 0.
      sizes: 32-bit integers that it is given when it runs.
      constants: what it is compiled for.
      warps: of a program.
      registers: the most that a thread may have. Told none, ptxas may spill some to have more
        threads at a time.
    """

    kernel: Any
    blocks: int
    sizes: Mapping[str, int]
    constants: Mapping[str, int]
    warps: int
    registers: int

    @property
    def options(self) -> dict[str, Any]:
        """What Triton's compiler is told; kernels themselves say where to fuse multiply and add."""
        return {
            "num_warps": self.warps,
            "maxnreg": self.registers,
            "enable_fp_fusion": False,
        }


def cdiv(length: int, block: int) -> int:
    """Blocks that cover a length.

    Example:
      >>> cdiv(33, 32)
      2
    """
    return -(-length // block)
