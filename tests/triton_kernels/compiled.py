"""Kernels compiled on a machine that has no GPU, as `jax_triton` does, and their machine code."""

import functools
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource, GluonJITFunction

TARGETS = (75, 80, 86, 89, 90, 100, 120)

_POINTERS = {"uint32": "*u32", "int32": "*i32", "float32": "*fp32", "uint8": "*u8"}

# Kept between runs; set here because importing jax_triton makes Triton forget the environment's.
knobs.cache.dir = str(Path(tempfile.gettempdir(), "mbu-jax-triton"))

type Pairs = tuple[tuple[str, Any], ...]


@functools.cache
def compiled(
    kernel: Any, types: tuple[str, ...], sizes: Pairs, constants: Pairs, options: Pairs, target: int
) -> Any:
    """Compile a kernel.

    Args:
      kernel: Triton's or Gluon's.
      types: dtypes of the arrays, the output last.
      sizes: integers that the kernel takes when it runs; one that is 1 becomes a constant.
      constants: of the kernel.
      options: of the compiler.
      target: compute capability, 75 for sm_75.
    """
    fixed = dict(constants) | {name: value for name, value in sizes if value == 1}
    arrays = iter(types)
    signature = {}
    for name in kernel.arg_names:
        if name in fixed:
            signature[name] = "constexpr"
        else:
            signature[name] = "i32" if name in dict(sizes) else _POINTERS[next(arrays)]
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, kind in enumerate(signature.values())
        if kind.startswith("*")
    }
    source = GluonASTSource if isinstance(kernel, GluonJITFunction) else ASTSource
    return triton.compile(
        source(kernel, signature, fixed, aligned),
        target=GPUTarget("cuda", target, 32),
        options=dict(options),
    )


class Sass:
    """A compiled kernel's machine code.

    Attributes:
      registers: of a thread.
      stack: bytes of local memory of a thread.
      calls_library: whether ptxas put functions of its own beside the kernel.
    """

    def __init__(self, kernel: Any):
        self._cubin = kernel.asm["cubin"]
        found = re.search(r"REG:(\d+) STACK:(\d+)", self._dumped("--dump-resource-usage"))
        assert found is not None
        self.registers, self.stack = map(int, found.groups())
        self.calls_library = b"__internal_" in self._cubin

    @functools.cached_property
    def instructions(self) -> list[tuple[int, str, str]]:
        """Addresses, opcodes with modifiers, operands; this takes longer than compiling."""
        line = r"/\*([0-9a-f]{4,})\*/ +(?:@!?U?P\w+ +)?([A-Z][A-Z0-9]+(?:\.\w+)*)(.*)"
        found = (
            (int(at, 16), opcode, operands)
            for at, opcode, operands in re.findall(line, self._dumped("-sass"))
        )
        return [each for each in found if not _leaves_loop(*each)]

    @property
    def opcodes(self) -> Counter[str]:
        """How often each occurs, modifiers cut off."""
        return _counted(self.instructions)

    @property
    def loops(self) -> list[Counter[str]]:
        """The opcodes of loops, from what a branch leads back to up to the branch."""
        found = []
        for at, opcode, operands in self.instructions:
            target = re.search(r"0x([0-9a-f]+)", operands)
            if opcode.split(".")[0] == "BRA" and target and int(target[1], 16) < at:
                first = int(target[1], 16)
                found.append(_counted(each for each in self.instructions if first <= each[0] <= at))
        return found

    def _dumped(self, option: str) -> str:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self._cubin)
            file.flush()
            command = [knobs.nvidia.cuobjdump.path, option, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _counted(instructions: Iterable[tuple[int, str, str]]) -> Counter[str]:
    return Counter(opcode.split(".")[0] for _, opcode, _ in instructions)


def _leaves_loop(at: int, opcode: str, operands: str) -> bool:
    """Whether this is how ptxas jumps over a loop's last branch on sm_80: by a call."""
    target = re.search(r" 0x([0-9a-f]+)", operands)
    called = opcode.split(".")[0] == "CALL"
    return called and target is not None and int(target[1], 16) == at + 0x20
