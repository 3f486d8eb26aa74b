"""What was measured on the GPU at hand; where nothing was, what is published of such GPUs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import jax

from mbu_jax.errors import InputError
from mbu_jax.ops.gpu import target
from mbu_jax.ops.gpu.cost_rates import Rates, published_rates, typical_device

if TYPE_CHECKING:
    from triton_kernels.tuned import Tuned


type Tiles = Mapping[str, Mapping[str, int]]

# Part of the key under which JAX keeps what it has traced and lowered.
_given = jax.make_user_context(default_value=None)


@contextlib.contextmanager
def given_tiles(tiles: Callable[[str], Tiles | None]) -> Iterator[None]:
    """Lower kernels with other tiles than those that were measured, to measure them.

    Args:
      tiles: function of a kernel's name that gives what `measured_tiles` then gives.

    Yields:
      Nothing.

    Example:
      >>> with given_tiles(lambda kernel: {"pixels=64 groups=8": {"columns": 8}}):
      ...     measured_tiles("wgmma_up_conv2x2")
      {'pixels=64 groups=8': {'columns': 8}}
    """
    with _given(tiles):
        yield


def tuned_device() -> Tuned | None:
    """Find what was measured on the GPU that programs are lowered for.

    Returns:
      Its ceilings and tiles, or None where no GPU is here, another compute capability than its own
      is named, or this kind of GPU was not measured.

    Raises:
      InputError: where this GPU's file is not what it should be.
    """
    from triton_kernels import tuned

    try:
        device = jax.local_devices(backend="cuda")[0]
    except RuntimeError:
        return None
    if int(device.compute_capability.replace(".", "")) != target.target():
        return None
    try:
        return tuned.load(device.device_kind)
    except tuned.TunedFileError as error:
        raise InputError(f"{error}; mend or remove it") from error


def measured_tiles(kernel: str) -> Tiles | None:
    """Find the tiles that were fastest on the GPU that programs are lowered for.

    Args:
      kernel: its name in `triton_kernels.tuned`.

    Returns:
      Fields of tiles by the shape's key, or None; inside `given_tiles` what is given there.

    Raises:
      InputError: as `tuned_device` does.
    """
    if _given.value is not None:
        return _given.value(kernel)
    found = tuned_device()
    return None if found is None else found.tiles.get(kernel)


def device_rates(capability: int) -> tuple[str, Rates]:
    """Say what a device does in a second: as measured on the GPU here, else as published.

    Args:
      capability: compute capability.

    Returns:
      The device's name, and its rates.

    Raises:
      InputError: as `tuned_device` does.
    """
    rates = published_rates(capability)
    found = tuned_device()
    if found is None or found.compute_capability != capability:
        return typical_device(capability), rates
    # What is not measured has the published ratio to logic.
    scale = found.ceilings.lop3 / rates.logic
    measured = dataclasses.replace(
        rates,
        multiprocessors=found.multiprocessors,
        logic=found.ceilings.lop3,
        popcount=found.ceilings.popc,
        multiply_add=scale * rates.multiply_add,
        bmma=found.ceilings.bmma or scale * rates.bmma,
        wgmma=found.ceilings.wgmma or scale * rates.wgmma,
        cache_bytes=scale * rates.cache_bytes,
        memory_bytes=found.ceilings.copy_bytes,
    )
    return found.device, measured
