"""Gluon's steps of compilation, for callers that know only those of Triton."""

from typing import Any

from triton.backends.nvidia.compiler import CUDABackend


class GluonBackend(CUDABackend):
    """Compiles a Gluon kernel with the layouts that it is written with.

    The steps for Triton kernels choose layouts anew. They take inline PTX for elementwise and may
    give its operands to other lanes, where ``mma`` and ``shfl`` take other numbers, and they move
    data through shared memory within loops.
    """

    def make_ttir(self, module: Any, *_: Any) -> Any:  # pyrefly: ignore[bad-override]
        """Leave the module as it is: Gluon begins one step later."""
        return module

    def make_ttgir(self, *arguments: Any) -> Any:  # pyrefly: ignore[bad-override]
        """Compile without the passes that choose layouts."""
        return self.gluon_to_ttgir(*arguments)
