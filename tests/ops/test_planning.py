"""The cheapest plan against every plan, and what predictions must say of engines and devices."""

import functools
import itertools
import math
import re
from collections import Counter
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxlib import gpu_triton

from mbu_jax.inference import infer
from mbu_jax.ops.gpu import costs
from mbu_jax.ops.gpu.cost_rates import published_rates, typical_device
from mbu_jax.ops.gpu.costs import Activations, Work
from mbu_jax.ops.gpu.target import compute_capability
from mbu_jax.ops.layouts import LayoutName, Place
from mbu_jax.ops.planning import Option, Plan, Step, cheapest, plan
from mbu_jax.ops.specs import ConvSpec
from mbu_jax.packing import unet_template
from mbu_jax.unet import UNetConfig
from tests.random_packed import random_packed

LAYOUTS: tuple[LayoutName, ...] = ("channels", "pixels")
H100 = published_rates(90)
# Sums of these are exact, in any order.
SECONDS = st.integers(0, 20).map(float)


@st.composite
def networks(draw: st.DrawFn) -> list[Step]:
    """Chains of steps, of which some take an earlier result beside the last one."""
    steps = []
    for number in range(draw(st.integers(2, 7))):
        inputs = () if number == 0 else (number - 1,)
        if number > 1 and draw(st.booleans()):
            inputs += (draw(st.integers(0, number - 2)),)
        chosen = draw(st.lists(st.sampled_from(LAYOUTS), min_size=1, max_size=3))
        options = tuple(
            Option(Place(layout, f"{layout}{i}"), draw(SECONDS)) for i, layout in enumerate(chosen)
        )
        steps.append(Step(str(number), inputs, number, options, draw(SECONDS)))
    return steps


def price(steps: list[Step], chosen: tuple[Option, ...]) -> float:
    """Steps, and for every result each other layout that somebody wants it in."""
    total = sum(option.seconds for option in chosen)
    for step, option in zip(steps, chosen, strict=True):
        readers = (
            reader.place.layout
            for other, reader in zip(steps, chosen, strict=True)
            if step.output in other.inputs
        )
        total += step.turning * len(set(readers) - {option.place.layout})
    return total


@settings(deadline=None, max_examples=60, derandomize=True)
@given(networks())
def test_no_plan_is_cheaper(steps: list[Step]) -> None:
    found = cheapest(steps)
    every = itertools.product(*(step.options for step in steps))
    assert found.seconds == min(price(steps, chosen) for chosen in every)
    chosen = tuple(
        next(option for option in step.options if option.place == one.place)
        for step, one in zip(steps, found.steps, strict=True)
    )
    assert price(steps, chosen) == found.seconds


def test_a_reason_names_the_other_engines_and_why_a_slower_one_was_taken() -> None:
    fast, slow = Place("pixels", "bitsliced"), Place("channels", "bmma")
    steps = [
        Step("a", (), 0, (Option(slow, 3e-6),), 5e-6),
        Step("b", (0,), 1, (Option(fast, 1e-6), Option(slow, 2e-6)), 0.0),
    ]
    found = cheapest(steps)
    assert [step.reason for step in found.steps] == [
        "predicted 3.0 us",
        "predicted 2.0 us; bitsliced 1.0, and changes of layout",
    ]
    assert found.seconds == pytest.approx(5e-6)
    assert found.places == {"a": slow, "b": slow}


def engines(found: Plan) -> dict[str, Any]:
    return {step.name: step.place.engine for step in found.steps}


def planned(config: UNetConfig, capability: int, size: int = 512, images: int = 1) -> Plan:
    return plan(
        unet_template(config),
        (images, size, size, 3),
        capability=capability,
        rates=published_rates(capability),
    )


@pytest.mark.parametrize("capability", [75, 80, 86, 89, 90, 100, 120])
def test_every_step_has_an_engine_that_the_device_has(capability: int) -> None:
    config = UNetConfig(width=64, precisions=("binary", "masked", "pow2") * 4)
    found = planned(config, capability)
    template = unet_template(config)
    pools = {f"down_c{index}.pool" for index in range(1, 5)}
    assert set(engines(found)) == {"stem.conv1", "head", *template.convs, *pools}
    assert math.isfinite(found.seconds)
    assert found.seconds >= 0.999999 * sum(step.seconds for step in found.steps)
    for step in found.steps:
        assert step.place.layout == ("pixels" if step.place.engine == "bitsliced" else "channels")
        assert capability < 100 or step.place.engine != "bmma"
    if capability < 100:
        assert "bmma" in engines(found).values()


def test_zeros_make_the_bitsliced_engine_worth_its_changes_of_layout() -> None:
    config = UNetConfig.preset("all_masked")
    sparse = random_packed(config, density=0.01)
    chosen = plan(sparse, (64, 512, 512, 3), capability=86, rates=published_rates(86))
    assert engines(chosen)["down_c2.conv2"] == "bitsliced"
    full = random_packed(config, density=0.9)
    chosen = plan(full, (64, 512, 512, 3), capability=86, rates=published_rates(86))
    assert engines(chosen)["down_c2.conv2"] == "bmma"
    # Under jit nobody knows which of the two this is.
    seen = []

    @jax.jit
    def traced(params: Any) -> Any:
        seen.append(plan(params, (64, 512, 512, 3), capability=86, rates=published_rates(86)))
        return params

    jax.eval_shape(traced, sparse)
    assert seen[0] == planned(config, 86, images=64)


def test_infer_follows_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_triton, "TritonKernel", object(), raising=False)
    params = random_packed(UNetConfig.preset("all_masked"), density=0.1)
    images = jax.ShapeDtypeStruct((64, 510, 512, 3), "uint8")
    for capability in (86, 120):
        with compute_capability(capability):
            program = str(jax.make_jaxpr(functools.partial(infer, params))(images))
        rates = published_rates(capability)
        chosen = plan(params, (64, 512, 512, 3), capability=capability, rates=rates)
        wanted = Counter(f"{engine}@cuda" for engine in engines(chosen).values())
        found = re.findall(r"implementation=(\w+@\w+)", program)
        assert Counter(found) == wanted
        assert ("bmma@cuda" in wanted, "bitsliced@cuda" in wanted) == (capability < 100, True)


def test_predictions_grow_with_the_work() -> None:
    x = Activations(64, 128, 128, 1, (64,))
    _, masked = ConvSpec("", (1, 1, 1), (64,), 64, "masked").arguments(seed=0)
    _, binary = ConvSpec("", (1, 1, 1), (64,), 64, "binary").arguments(seed=0)
    _, pow2 = ConvSpec("", (1, 1, 1), (64,), 64, "pow2").arguments(seed=0)

    def seconds(works: list[Work] | None) -> float:
        assert works is not None
        return sum(work.seconds(H100) - H100.launch for work in works)

    # Two products of a masked layer where a binary one has one.
    ratio = seconds(costs.bmma_conv(x, masked, 86)) / seconds(costs.bmma_conv(x, binary, 86))
    assert 1.9 < ratio <= 2
    assert seconds(costs.popcount_conv(x, pow2)) > 2 * seconds(costs.popcount_conv(x, masked))
    by_density = [seconds(costs.bitsliced_conv(x, masked, share)) for share in (0.05, 0.5, 1)]
    assert by_density == sorted(by_density)
    assert by_density[2] > 8 * by_density[0]
    two_bits = Activations(64, 128, 128, 2, (64,))
    assert seconds(costs.bmma_conv(two_bits, masked, 90)) == pytest.approx(
        2 * seconds(costs.bmma_conv(x, masked, 90)), rel=0.1
    )


def test_no_prediction_is_below_the_devices_ceilings() -> None:
    x = Activations(64, 128, 128, 1, (64,))
    _, layer = ConvSpec("", (1, 1, 1), (64,), 64, "masked").arguments(seed=0)
    macs = 64 * 128 * 128 * 9 * 64 * 64
    (wgmma,) = costs.bmma_conv(x, layer, 90)
    assert wgmma.seconds(H100) >= 2 * macs / H100.wgmma
    a100 = published_rates(80)
    (bmma,) = costs.bmma_conv(x, layer, 80)
    assert bmma.seconds(a100) >= 2 * macs / a100.bmma
    assert bmma.seconds(published_rates(100)) == wgmma.seconds(a100) == math.inf
    (popcount,) = costs.popcount_conv(x, layer)
    assert popcount.seconds(H100) >= macs / 32 * 2 / 3 / H100.popcount
    copy, conv = costs.bitsliced_conv(x, layer, 0.1) or []
    assert conv.seconds(H100) >= 2 * 0.1 * macs / 32 / H100.logic
    planes = 4 * np.prod(x.pixels)
    assert copy.seconds(H100) >= 4 * planes / H100.memory_bytes


def test_planes_beyond_the_kernels_offsets_are_not_planned() -> None:
    chosen = planned(UNetConfig.preset("all_masked"), 100, size=16384)
    assert math.isfinite(chosen.seconds)
    assert engines(chosen)["up_c4.conv1"] == "popcount"
    assert "bitsliced" in engines(chosen).values()


def test_a_device_stands_for_its_compute_capability() -> None:
    assert typical_device(90) == "H100 SXM"
    assert typical_device(88) == "Orin"
    assert published_rates(120).bmma == 0
    # The data sheet's 4,992 TOPS are two operations a multiply-accumulate.
    assert published_rates(80).bmma == pytest.approx(4992e12 / 2, rel=0.01)
