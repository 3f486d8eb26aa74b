"""Which engine runs each layer of a packed network, here or on a device that is named."""

import dataclasses
from typing import NamedTuple

from mbu_jax.errors import InputError
from mbu_jax.ops.bitsliced import library, pixels
from mbu_jax.ops.conv3x3.primitive import OPERATION as CONV3X3
from mbu_jax.ops.gpu import target
from mbu_jax.ops.gpu.tuning import device_rates
from mbu_jax.ops.head.primitive import OPERATION as HEAD
from mbu_jax.ops.operation import (
    Operation,
    check_implementation,
    check_platform,
    default_platform,
)
from mbu_jax.ops.planning import plan
from mbu_jax.ops.stem.primitive import OPERATION as STEM
from mbu_jax.ops.up_conv2x2.primitive import OPERATION as UP_CONV2X2
from mbu_jax.packing import PackedUNet


class ChosenEngine(NamedTuple):
    """A layer's engine.

    Attributes:
      name: of the engine.
      reason: why that one.
      microseconds: what the layer is predicted to take on a GPU, or None elsewhere.
    """

    name: str
    reason: str
    microseconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a network is predicted to take on a GPU; nothing of it has been measured.

    Attributes:
      device: the GPU whose rates were taken.
      compute_capability: of the GPU.
      microseconds: for one image, pools and changes of layout included.
    """

    device: str
    compute_capability: int
    microseconds: float


def chosen_engines(
    params: PackedUNet,
    size: tuple[int, int],
    implementation: str | None,
    platform: str | None,
    compute_capability: int | None,
) -> tuple[dict[str, ChosenEngine], Prediction | None]:
    """Choose engines as `mbu_jax.infer` does for one image.

    Args:
      params: the network.
      size: H and W of the image, as the poolings divide them.
      implementation: name of the engine of all layers, or None for the best.
      platform: ``cpu``, ``cuda``, ``rocm`` or ``tpu``; None is that of the default device, or
        ``cuda`` where a compute capability is given.
      compute_capability: of the GPU, or None for that of the GPU here.

    Returns:
      Engines by name of the layer, ``stem.conv1`` and ``head`` among them, and the prediction that
      they were chosen by on a GPU.

    Raises:
      InputError: for an engine that is unknown or cannot run there, or a GPU that is neither here
        nor named.
    """
    check_implementation(implementation)
    if platform is None:
        platform = default_platform() if compute_capability is None else "cuda"
    check_platform(platform, compute_capability)
    if platform == "cuda" and implementation != "xla":
        capability = compute_capability
        if capability is None:
            capability = target.target()
        if capability is None:
            raise InputError(
                "no NVIDIA GPU is here; name its compute capability, such as 90 for an H100"
            )
        if compute_capability is not None or target.absent() is None:
            return _planned(params, size, implementation, capability)
    on_planes = implementation == "bitsliced" or (
        platform == "cpu" and implementation is None and library.absent() is None
    )
    engines = {}
    for name in ("stem.conv1", *params.convs, "head"):
        choice = _operation(params, name, on_planes).choose(platform, implementation)
        engines[name] = ChosenEngine(choice.engine.name, choice.reason)
    return engines, None


def _planned(
    params: PackedUNet, size: tuple[int, int], implementation: str | None, capability: int
) -> tuple[dict[str, ChosenEngine], Prediction]:
    if implementation is not None:
        CONV3X3.choose("cpu", f"{implementation}@cuda")  # refuses an unknown name
    with target.compute_capability(capability):  # refuses one without kernels
        device, rates = device_rates(capability)
        found = plan(
            params,
            (1, *size, params.config.in_channels),
            capability=capability,
            rates=rates,
            implementation=implementation,
        )
    engines = {
        step.name: ChosenEngine(step.place.engine or "", step.reason, 1e6 * step.seconds)
        for step in found.steps
    }
    return engines, Prediction(device, capability, 1e6 * found.seconds)


def _operation(params: PackedUNet, name: str, on_planes: bool) -> Operation:
    if name == "stem.conv1":
        return pixels.STEM if on_planes else STEM
    if name == "head":
        return pixels.HEAD if on_planes else HEAD
    if on_planes:
        return pixels.CONV
    return UP_CONV2X2 if params.convs[name].transposed else CONV3X3
