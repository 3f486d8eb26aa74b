"""Which engine runs each step of the network on a GPU: the cheapest way through its layers.

Every step has engines that take one layout, and a result may be turned into the other layout, once
for all steps that want it. The way through is a shortest path: what has been paid for so far
depends on nothing but the layouts in which the results that later steps need are there.

The bits of a network do not depend on its plan.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, override

import jax
import numpy as np
from jax import Array

from mbu_jax.errors import InputError
from mbu_jax.ops.gpu import costs, target
from mbu_jax.ops.gpu.cost_rates import Rates
from mbu_jax.ops.gpu.costs import ASSUMED_DENSITY, Activations, Work
from mbu_jax.ops.gpu.tensor_cores import FIRST_EMULATED
from mbu_jax.ops.gpu.tuning import device_rates
from mbu_jax.ops.layouts import Layout, LayoutName, Mixed, Place
from mbu_jax.ops.network import forward
from mbu_jax.packing import PackedConv, PackedHead, PackedStem, PackedUNet, unet_template
from mbu_jax.unet import UNetConfig

type _Ways = dict[frozenset[tuple[int, LayoutName]], tuple[float, tuple[Option, ...]]]
"""By the results that later steps need, and their layouts: seconds, and what was chosen so far."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One way to run a step.

    Attributes:
      place: layout and engine.
      seconds: predicted.
    """

    place: Place
    seconds: float


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the network.

    Attributes:
      name: of the layer, or of a pool.
      inputs: numbers of the results that it takes.
      output: number of its result.
      options: ways to run it, one at least.
      turning: predicted seconds to bring its result into the other layout.
    """

    name: str
    inputs: tuple[int, ...]
    output: int
    options: tuple[Option, ...]
    turning: float


@dataclasses.dataclass(frozen=True)
class Planned:
    """A step, and the way that was chosen.

    Attributes:
      name: of the layer, or of a pool.
      place: layout and engine.
      seconds: predicted, without changes of layout.
      reason: a short clause for a report.
    """

    name: str
    place: Place
    seconds: float
    reason: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """An engine for every step.

    Attributes:
      steps: in the order in which they run.
      seconds: predicted for all, changes of layout included.
    """

    steps: tuple[Planned, ...]
    seconds: float

    @property
    def places(self) -> Mapping[str, Place]:
        """Layout and engine by the step's name, as `mbu_jax.ops.layouts.Mixed` takes them."""
        return {step.name: step.place for step in self.steps}


def plan(
    params: PackedUNet,
    shape: Sequence[int],
    *,
    capability: int,
    rates: Rates,
    implementation: str | None = None,
) -> Plan:
    """Choose the engines of a network for a GPU.

    Args:
      params: the network; where its values are traced or it is a template, masked layers are taken
        to have `mbu_jax.ops.gpu.costs.ASSUMED_DENSITY`.
      shape: of the images, [B, H, W, C], H and W as the poolings divide them.
      capability: compute capability of the GPU.
      rates: what it does in a second.
      implementation: ``popcount``, ``bmma`` or ``bitsliced`` for all layers; by default what is
        fastest.

    Returns:
      The plan.

    Raises:
      InputError: where the GPU has not the engine asked for, or an image is beyond its offsets.

    Example:
      >>> from mbu_jax.ops.gpu.cost_rates import published_rates
      >>> from mbu_jax.packing import unet_template
      >>> from mbu_jax.unet import UNetConfig
      >>> template = unet_template(UNetConfig())
      >>> chosen = plan(template, (1, 512, 512, 3), capability=90, rates=published_rates(90))
      >>> chosen.steps[0].name, chosen.steps[0].place.engine
      ('stem.conv1', 'popcount')
    """
    densities = tuple((name, _density(params.convs[name])) for name in params.conv_names)
    return _plan(params.config, densities, (*shape,), capability, rates, implementation)


@functools.lru_cache(maxsize=64)
def _plan(
    config: UNetConfig,
    densities: tuple[tuple[str, float], ...],
    shape: tuple[int, ...],
    capability: int,
    rates: Rates,
    implementation: str | None,
) -> Plan:
    bits = config.quantization.activation_bits
    recorder = _Recorder(capability, rates, bits, dict(densities), implementation)
    forward(unet_template(config), shape, recorder)
    return cheapest(recorder.steps)


def planned_layout(params: PackedUNet, shape: Sequence[int]) -> Layout[Any]:
    """Choose the engines of a network for the GPU that programs are lowered for.

    Args:
      params: as for `plan`.
      shape: as for `plan`; a number of images that is not known counts as 1.

    Returns:
      A layout that runs the network so on ``cuda``, and as well as it can elsewhere.

    Raises:
      InputError: where what was measured on the GPU here cannot be read.
    """
    capability = target.target()
    assert capability is not None, "the caller has asked whether kernels are absent"
    rates = device_rates(capability)[1]
    images = shape[0] if isinstance(shape[0], int) else 1
    chosen = plan(params, (images, *shape[1:]), capability=capability, rates=rates)
    return Mixed(
        {name: Place(place.layout, f"{place.engine}@cuda") for name, place in chosen.places.items()}
    )


def cheapest(steps: Sequence[Step]) -> Plan:
    """Find the way through all steps that takes least time.

    Args:
      steps: in the order in which they run.

    Returns:
      The plan.
    """
    last_use = {number: i for i, step in enumerate(steps) for number in step.inputs}
    turning = {step.output: step.turning for step in steps}
    ways: _Ways = {frozenset(): (0.0, ())}
    for i, step in enumerate(steps):
        longer: _Ways = {}
        for there, (seconds, chosen) in ways.items():
            for option in step.options:
                layout = option.place.layout
                wanted = {(number, layout) for number in step.inputs}
                missing = sum(turning[number] for number, _ in wanted - there)
                now = there | wanted | {(step.output, layout)}
                kept = frozenset(one for one in now if last_use.get(one[0], -1) > i)
                total = seconds + missing + option.seconds
                if kept not in longer or total < longer[kept][0]:
                    longer[kept] = total, (*chosen, option)
        ways = longer
    seconds, chosen = min(ways.values(), key=lambda way: way[0])
    return Plan(tuple(map(_planned, steps, chosen)), seconds)


def _planned(step: Step, option: Option) -> Planned:
    others = [
        f"{other.place.engine} {_microseconds(other.seconds)}"
        for other in step.options
        if other is not option
    ]
    reason = f"predicted {_microseconds(option.seconds)} us"
    if others:
        reason += f"; {', '.join(others)}"
    if option.seconds > min(other.seconds for other in step.options):
        reason += ", and changes of layout"
    return Planned(step.name, option.place, option.seconds, reason)


def _microseconds(seconds: float) -> str:
    return f"{1e6 * seconds:.1f}"


type _Engines = dict[str, list[Work]]


class _Results(NamedTuple):
    """Numbers of one result, or of two beside each other, and their shape."""

    numbers: tuple[int, ...]
    shape: Activations


class _Recorder(Layout[_Results]):
    """Computes nothing but predictions."""

    def __init__(
        self,
        capability: int,
        rates: Rates,
        planes: int,
        densities: Mapping[str, float],
        implementation: str | None,
    ):
        self.steps: list[Step] = []
        self._implementation = implementation
        self._capability = capability
        self._rates = rates
        self._planes = planes
        self._densities = densities

    @override
    def stem(self, name: str, levels: Any, layer: PackedStem) -> _Results:
        images, height, width, channels = levels
        x = Activations(images, height, width, self._planes, (channels,))
        y = dataclasses.replace(x, segments=(layer.out_channels,))
        engines = self._of_words([costs.stem(x, layer.out_channels)], y)
        return self._step(name, _Results((), x), y, engines)

    @override
    def conv(self, name: str, x: _Results, layer: PackedConv) -> _Results:
        engines: _Engines = {"popcount": costs.popcount_conv(x.shape, layer)}
        if self._capability < FIRST_EMULATED:
            engines["bmma"] = costs.bmma_conv(x.shape, layer, self._capability)
        works = costs.bitsliced_conv(x.shape, layer, self._densities[name])
        if works is not None:
            engines["bitsliced"] = works
        return self._step(name, x, x.shape.result(layer), engines)

    @override
    def max_pool2x2(self, name: str, x: _Results) -> _Results:
        y = dataclasses.replace(x.shape, height=x.shape.height // 2, width=x.shape.width // 2)
        works = [costs.pool(x.shape)]
        engines: _Engines = {"popcount": works, "bitsliced": works}
        if self._implementation == "bmma":
            engines["bmma"] = works
        return self._step(name, x, y, engines)

    @override
    def join(self, skip: _Results, x: _Results) -> _Results:
        segments = skip.shape.segments + x.shape.segments
        shape = dataclasses.replace(skip.shape, segments=segments)
        return _Results(skip.numbers + x.numbers, shape)

    @override
    def head(self, name: str, x: _Results, layer: PackedHead) -> Any:
        engines = self._of_words([costs.head(x.shape, layer.classes)], x.shape)
        return self._step(name, x, x.shape, engines)

    @override
    def channel_words(self, x: _Results) -> Array:
        raise NotImplementedError

    def _of_words(self, works: list[Work], shape: Activations) -> _Engines:
        """Engines of a step that has one kernel, on words of channels, whatever it is called."""
        only = self._implementation or "popcount"
        turned = costs.turned(shape) if only == "bitsliced" else None
        return {only: works if turned is None else [*works, turned]}

    def _step(self, name: str, x: _Results, shape: Activations, engines: _Engines) -> _Results:
        only = self._implementation
        if only is not None and only not in engines:
            raise InputError(
                f"{name} cannot run on the {only} engine with compute capability "
                f"{self._capability}; leave implementation out for the best that can"
            )
        if only is not None:
            engines = {only: engines[only]}
        options = tuple(
            Option(
                Place("pixels" if engine == "bitsliced" else "channels", engine),
                sum(work.seconds(self._rates) for work in works),
            )
            for engine, works in engines.items()
        )
        turned = costs.turned(shape)
        turning = math.inf if turned is None else turned.seconds(self._rates)
        output = len(self.steps)
        self.steps.append(Step(name, x.numbers, output, options, turning))
        return _Results((output,), shape)


def _density(layer: PackedConv) -> float:
    return layer.density if all(map(_is_known, jax.tree.leaves(layer))) else ASSUMED_DENSITY


def _is_known(leaf: Any) -> bool:
    if isinstance(leaf, jax.core.Tracer):
        return False
    return isinstance(leaf, np.ndarray) or (isinstance(leaf, Array) and leaf.is_fully_addressable)
