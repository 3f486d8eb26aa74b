"""Calls of Triton kernels; each function imports them where it lowers them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
from jax import Array

from mbu_jax.ops.gpu.target import target

if TYPE_CHECKING:
    from triton_kernels.launch import Launch


def call(launch: Launch, result: jax.ShapeDtypeStruct, *arrays: Array) -> Array:
    """Launch a kernel.

    Args:
      launch: the kernel and its geometry.
      result: shape and dtype of what it gives.
      *arrays: its inputs.

    Returns:
      The result.
    """
    import jax_triton

    _keep_layouts()
    capability = target()
    parameters: dict[str, Any] = {**launch.sizes, **launch.constants}
    return jax_triton.triton_call(
        *arrays,
        kernel=launch.kernel,
        out_type=result,
        grid=launch.blocks,
        name=launch.kernel.__name__,
        compute_capability=capability,
        backend_options=launch.options_for(capability),
        **parameters,
    )


@functools.cache
def _keep_layouts() -> None:
    """Let jax_triton compile Gluon kernels by Gluon's steps; 0.4.1 takes Triton's for all."""
    from jax_triton.triton_lib import TritonFunction
    from triton.experimental.gluon._runtime import GluonJITFunction

    from triton_kernels.gluon_backend import GluonBackend

    compile_kernel = TritonFunction._compile_kernel

    def compile_by_language(
        self: TritonFunction,
        spec: Any,
        gpu_target: Any,
        backend: Any,
        backend_options: Mapping[str, Any],
    ) -> Any:
        if isinstance(self.fn, GluonJITFunction) and gpu_target.backend == "cuda":
            backend = GluonBackend(gpu_target)
        return compile_kernel(self, spec, gpu_target, backend, backend_options)

    TritonFunction._compile_kernel = compile_by_language
