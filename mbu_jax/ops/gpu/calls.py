"""Calls of Triton kernels; each function imports them where it lowers them."""

from __future__ import annotations

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
