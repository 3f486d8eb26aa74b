"""Packed networks as programs, made ahead of time for machines that have JAX alone."""

import contextlib
import functools
from collections.abc import Sequence
from typing import Literal, cast, get_args

import jax
import numpy as np
from jax import lax
from jax._src import config
from jax.typing import DTypeLike

from mbu_jax.errors import InputError
from mbu_jax.ops.bitsliced import pixels
from mbu_jax.ops.conv3x3.primitive import OPERATION as CONV3X3
from mbu_jax.ops.gpu import target
from mbu_jax.ops.operation import check_implementation, check_platform
from mbu_jax.packing import PackedUNet
from mbu_jax.prepare import prepare

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
      InputError: for what is no packed network, images that it cannot take, an engine that cannot
        be exported, or where something is missing to compile for the platform.

    Example:
      >>> from mbu_jax.packing import unet_template
      >>> from mbu_jax.unet import UNetConfig
      >>> template = unet_template(UNetConfig(width=1))
      >>> params = jax.tree.map(lambda spec: np.zeros(spec.shape, spec.dtype), template)
      >>> program = jax.export.deserialize(export(params, (1, 20, 33, 3)))
      >>> program.platforms, program.out_avals[0].shape
      (('cpu',), (1, 20, 33, 1))
    """
    any_number = len(shape) > 0 and shape[0] is None
    if any_number and (len(shape) == 3 or platform == "cuda"):
        raise InputError(
            f"shape is {tuple(shape)}; only the number of images B may be None, and only on cpu: "
            "kernels are launched for a size that is known"
        )
    engine = chosen_engine(platform, compute_capability, implementation)
    segment = prepare(
        params,
        cast("Sequence[int]", shape[1:] if any_number else shape),
        platform=platform,
        compute_capability=compute_capability,
        implementation=engine,
        dtype=dtype,
    )
    images = segment.images
    program = segment
    if any_number:
        sizes = jax.export.symbolic_shape(f"b, {str(images.shape)[1:-1]}")
        images = jax.ShapeDtypeStruct(sizes, images.dtype)
        program = functools.partial(lax.map, segment)
    # Source lines are of no use elsewhere, and JAX has no public way to leave them out.
    with config.traceback_in_locations_limit(0):
        exported = jax.export.export(
            jax.jit(program), platforms=(platform,), disabled_checks=(_KERNEL_CALL,)
        )(images)
    return bytes(exported.serialize())


def chosen_engine(
    platform: Platform, compute_capability: int | None, implementation: str | None
) -> str | None:
    """Choose the engine of a program for `export`, before anything is compiled.

    Args:
      platform: where the program runs.
      compute_capability: of the GPU that it is for; None is the GPU here.
      implementation: name of the engine asked for, or None.

    Returns:
      Its name, or None for the best of a GPU.

    Raises:
      InputError: for an engine that is unknown or cannot be exported, or where something is
        missing to compile for the platform.

    Example:
      >>> chosen_engine("cpu", None, None)
      'xla'
    """
    if platform not in get_args(Platform.__value__):
        raise InputError(f"platform is {platform!r}; choose cpu or cuda")
    check_platform(platform, compute_capability)
    check_implementation(implementation)
    engine = _engine(platform, implementation)
    if compute_capability not in (None, *COMPUTE_CAPABILITIES):
        known = ", ".join(map(str, COMPUTE_CAPABILITIES))
        raise InputError(
            f"compute capability {compute_capability} has no kernels; choose one of {known}"
        )
    named = (
        contextlib.nullcontext()
        if compute_capability is None
        else target.compute_capability(compute_capability)
    )
    with named:
        if platform == "cuda" and engine != "xla" and (missing := target.absent()) is not None:
            # The engine `xla` instead would be slow without a word.
            raise InputError(
                f"kernels for cuda cannot be compiled: {missing}; or export implementation xla"
            )
        if engine is not None:
            operation = pixels.CONV if engine == "bitsliced" else CONV3X3
            operation.choose(platform, engine)  # refuses an unknown one
    return engine


def _engine(platform: Platform, implementation: str | None) -> str | None:
    if platform == "cuda":
        return implementation
    if implementation == "bitsliced":
        raise InputError(
            "the bitsliced engine of a CPU is a library that an exported program would miss; "
            "export xla, or install mbu_jax there and call infer"
        )
    return implementation or "xla"
