"""Packed networks as programs, made ahead of time for machines that have JAX alone."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import jax
import numpy as np
from jax import Array, lax
from jax._src import config
from jax.typing import DTypeLike

from mbu_jax.errors import InputError
from mbu_jax.inference import infer
from mbu_jax.ops.gpu import target
from mbu_jax.packing import PackedUNet

type Platform = Literal["cpu", "cuda"]

COMPUTE_CAPABILITIES = (75, 80, 86, 87, 89, 90, 100, 103, 120, 121)
"""GPUs that kernels can be compiled for."""

# The one foreign call that every JAX with CUDA brings; it carries a kernel's PTX with it.
_KERNEL_CALL = jax.export.DisabledSafetyCheck.custom_call("triton_kernel_call_ffi")


def export(
    params: PackedUNet,
    shape: Sequence[int | None],
    *,
    platform: Platform = "cpu",
    compute_capability: int | None = None,
    implementation: str | None = None,
    dtype: DTypeLike = np.uint8,
) -> bytes:
    """Compile a packed network into a program that a machine with only JAX loads and runs.

    The program is what ``jax.export`` serializes, with the network's weights inside and, for a
    GPU, every kernel as PTX. ``jax.export.deserialize(program).call(images)`` gives the logits of
    `infer`, bit for bit, without Triton and without mbu_jax. JAX there should be of the version
    here: its promise to load files of other versions does not cover kernels. The same network
    gives the same bytes.

    Args:
      params: the network.
      shape: of the images, [B, H, W, C] or [H, W, C]. B may be None on ``cpu``: any number of
        images, which then follow one another.
      platform: where the program runs. On ``cuda`` its kernels are for one compute capability.
      compute_capability: of the GPU that it is for, 90 for an H100; by default that of the GPU
        here. No GPU is needed to name one.
      implementation: name of the engine, or None for ``xla`` on ``cpu`` and the best of ``cuda``.
      dtype: of the images, uint8 or float32.

    Returns:
      The program.

    Raises:
      InputError: for images that the network cannot take, an engine that cannot be exported, or
        where something is missing to compile for the platform.

    Example:
      >>> from mbu_jax.packing import unet_template
      >>> from mbu_jax.unet import UNetConfig
      >>> template = unet_template(UNetConfig(width=1))
      >>> params = jax.tree.map(lambda spec: np.zeros(spec.shape, spec.dtype), template)
      >>> program = jax.export.deserialize(export(params, (1, 20, 33, 3)))
      >>> program.platforms, program.out_avals[0].shape
      (('cpu',), (1, 20, 33, 1))
    """
    if platform not in get_args(Platform.__value__):
        raise InputError(f"platform is {platform!r}; choose cpu or cuda")
    images = _images(shape, dtype, platform)
    engine = _engine(platform, implementation)

    def segment(images: Array) -> Array:
        if shape[0] is not None:
            return infer(params, images, implementation=engine)
        return lax.map(lambda image: infer(params, image, implementation=engine), images)

    # Source lines are of no use elsewhere, and JAX has no public way to leave them out.
    with _aimed_at(platform, compute_capability, engine), config.traceback_in_locations_limit(0):
        program = jax.export.export(
            jax.jit(segment), platforms=(platform,), disabled_checks=(_KERNEL_CALL,)
        )(images)
    return bytes(program.serialize())


def _images(
    shape: Sequence[int | None], dtype: DTypeLike, platform: Platform
) -> jax.ShapeDtypeStruct:
    if np.dtype(dtype) not in (np.uint8, np.float32):
        raise InputError(f"dtype is {np.dtype(dtype)}; choose uint8 or float32")
    first, *rest = shape or (0,)
    sizes = rest if first is None else [first, *rest]
    if len(shape) not in (3, 4) or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise InputError(
            f"shape is {tuple(shape)}; give [B, H, W, C] or [H, W, C], all 1 or more, or None for B"
        )
    if first is not None:
        return jax.ShapeDtypeStruct(tuple(sizes), dtype)
    if len(shape) == 3 or platform == "cuda":
        raise InputError(
            f"shape is {tuple(shape)}; only the number of images B may be None, and only on cpu: "
            "kernels are launched for a size that is known"
        )
    return jax.ShapeDtypeStruct(jax.export.symbolic_shape(f"b, {str(rest)[1:-1]}"), dtype)


def _engine(platform: Platform, implementation: str | None) -> str | None:
    if platform == "cuda":
        return implementation
    if implementation == "bitsliced":
        raise InputError(
            "the bitsliced engine of a CPU is a library that an exported program would miss; "
            "export xla, or install mbu_jax there and call infer"
        )
    return implementation or "xla"


@contextlib.contextmanager
def _aimed_at(platform: Platform, capability: int | None, engine: str | None) -> Iterator[None]:
    """Lower for the GPU named; refuse where kernels could not be compiled."""
    if platform == "cpu" and capability is not None:
        raise InputError("a program for cpu has no compute capability; leave it out")
    if capability not in (None, *COMPUTE_CAPABILITIES):
        known = ", ".join(map(str, COMPUTE_CAPABILITIES))
        raise InputError(f"compute capability {capability} has no kernels; choose one of {known}")
    named = (
        contextlib.nullcontext() if capability is None else target.compute_capability(capability)
    )
    with named:
        missing = None if platform == "cpu" or engine == "xla" else target.absent()
        if missing is not None:
            # Falling back to `xla` would give a program that is slow without a word.
            raise InputError(
                f"kernels for cuda cannot be compiled: {missing}; or export implementation xla"
            )
        yield
