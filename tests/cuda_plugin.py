"""JAX's part for CUDA, which lowers programs for a GPU without one."""

import os

import pytest
from jaxlib import gpu_triton


def require_plugin() -> None:
    """Skip the module where the plugin is absent, unless MBU_JAX_REQUIRE_CUDA is set."""
    if hasattr(gpu_triton, "TritonKernel"):
        return
    if os.environ.get("MBU_JAX_REQUIRE_CUDA"):
        raise RuntimeError("jax-cuda13-plugin is not installed, or does not load")
    pytest.skip("jax-cuda13-plugin is not installed", allow_module_level=True)
