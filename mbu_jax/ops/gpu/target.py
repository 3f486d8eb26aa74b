"""The GPU that kernels are compiled for: the one here, or one named ahead of time."""

import contextlib
import importlib.util
from collections.abc import Iterator

import jax
from jaxlib import gpu_triton

from mbu_jax.errors import InputError

OLDEST = 75
"""The first compute capability that has kernels."""

# Part of the key under which JAX keeps what it has traced and lowered.
_named = jax.make_user_context(default_value=None)


@contextlib.contextmanager
def compute_capability(capability: int) -> Iterator[None]:
    """Lower programs for a GPU that need not be here.

    Args:
      capability: major version times ten plus the minor, 90 for an H100.

    Yields:
      Nothing.

    Raises:
      InputError: for one that has no kernels.

    Example:
      >>> with compute_capability(90):
      ...     target()
      90
    """
    if capability < OLDEST:
        raise InputError(f"compute capability {capability} has no kernels; they begin at {OLDEST}")
    with _named(capability):
        yield


def target() -> int | None:
    """Find the compute capability that kernels are compiled for.

    Returns:
      The one named, or that of the first GPU here, or None.
    """
    if _named.value is not None:
        return _named.value
    try:
        devices = jax.local_devices(backend="cuda")
    except RuntimeError:
        return None
    major, minor = devices[0].compute_capability.split(".")
    return 10 * int(major) + int(minor)


def absent() -> str | None:
    """Say what Triton's kernels lack here.

    Returns:
      What is missing, in words, or None where they can be lowered.
    """
    for package in ("triton", "jax_triton"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed; install mbu_jax anew on Linux"
    if not hasattr(gpu_triton, "TritonKernel"):
        return "JAX is installed without CUDA; install mbu_jax[cuda13]"
    capability = target()
    if capability is None:
        return "no NVIDIA GPU is here, and no compute capability was named"
    if capability < OLDEST:
        return f"the GPU's compute capability is {capability}; kernels begin at {OLDEST}"
    return None
