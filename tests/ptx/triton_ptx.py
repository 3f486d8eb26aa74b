"""Compiles Triton and Gluon kernels on a machine that has no GPU."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource, GluonJITFunction

# Compiling is most of the work, and mostly the same from run to run.
knobs.cache.dir = str(Path(tempfile.gettempdir(), "mbu-jax-triton"))


def compile_kernel(
    kernel: Any,
    signature: Mapping[str, str],
    constexprs: Mapping[str, Any],
    capability: int,
    **options: Any,
) -> Any:
    """Compiles a kernel for a compute capability.

    Args:
      kernel: decorated with `triton.jit` or `gluon.jit`.
      signature: Triton's type of every argument that is no constant, by name.
      constexprs: the constants, by name.
      capability: such as 90.
      **options: of Triton's compiler, such as `num_warps`.

    Returns:
      Triton's compiled kernel: `asm["ptx"]`, `metadata.shared`, …
    """
    source = GluonASTSource if isinstance(kernel, GluonJITFunction) else ASTSource
    names = list(kernel.arg_names)
    types = {name: signature.get(name, "constexpr") for name in names}
    constants = {(names.index(name),): value for name, value in constexprs.items()}
    return triton.compile(
        source(kernel, signature=types, constexprs=constants),
        target=GPUTarget("cuda", capability, 32),
        options={"enable_fp_fusion": False, **options},
    )
