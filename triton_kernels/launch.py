"""What it takes to launch a kernel, but for its arrays."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

# A driver, or the assembler that JAX brings, takes PTX up to its own version, and Triton writes its
# newest: ask for the first that knows the target, but for CUDA 12.0's where that is older.
_FIRST_PTX: dict[int | None, int] = {
    75: 80, 80: 80, 86: 80, 87: 80, 89: 80, 90: 80, 100: 86, 103: 88, 110: 90, 120: 87, 121: 88,
}  # fmt: skip


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

    def options_for(self, capability: int | None) -> dict[str, Any]:
        """What Triton's compiler is told for a target; it leaves out line information.

        Args:
          capability: major version times ten plus the minor, or None where none is known.

        Returns:
          The options, with a version of PTX that older assemblers take too.
        """
        from triton import knobs

        # It would put paths of the machine that compiles into the programs that it exports.
        if "TRITON_DISABLE_LINE_INFO" not in os.environ:
            knobs.compilation.disable_line_info = True
        return {**self.options, "ptx_version": _FIRST_PTX.get(capability)}


def cdiv(length: int, block: int) -> int:
    """Blocks that cover a length.

    Example:
      >>> cdiv(33, 32)
      2
    """
    return -(-length // block)
