"""Quantized networks that start from a full-precision one."""

from functools import cache
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from mbu_jax.layers import Precision, QuantizationOptions
from mbu_jax.train import quantized_start as module
from mbu_jax.train.quantized_start import quantized_start
from mbu_jax.train.state import Network
from mbu_jax.unet import UNetConfig

WIDTH = 4


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng()
    return [rng.integers(0, 256, (16, 32, 3), np.uint8) for _ in range(3)]


@pytest.fixture(scope="module")
def trained():
    """A full-precision network with scales and statistics as training leaves them."""
    config = UNetConfig.preset("full_precision", width=WIDTH, classes=2)
    network, params, stats = Network.create(config, seed=0)
    rng = np.random.default_rng()

    def other(path, value):
        if path[-1].key == "weight":
            return value
        low, high = (0.5, 1.5) if path[-1].key in ("scale", "var") else (-0.5, 0.5)
        return jnp.asarray(rng.uniform(low, high, value.shape), jnp.float32)

    return (
        network,
        jax.tree_util.tree_map_with_path(other, params),
        jax.tree_util.tree_map_with_path(other, stats),
    )


@pytest.fixture(scope="module")
def started(trained, images):
    """Network and initial parameters by bits, precision and density."""

    @cache
    def start(bits: int, precision: Precision = "masked", density: float = 0.1):
        network = quantized(bits, precision, density=density)
        floating, params, stats = trained
        return network, quantized_start(floating, params, stats, network, images)

    return start


def quantized(bits: int, precision: Precision = "masked", **options: Any) -> Network:
    quantization = QuantizationOptions(activation_bits=bits, **options)
    return Network.build(
        UNetConfig(width=WIDTH, classes=2, precisions=(precision,) * 12, quantization=quantization)
    )


def squared_error(step, levels):
    """Of max(x, 0) rounded to multiples of step, x standard normal."""
    edges = [0, *(step * (k + 0.5) for k in range(levels)), np.inf]
    return sum(
        integrate.quad(lambda x, k=k: (x - k * step) ** 2 * stats.norm.pdf(x), low, high)[0]
        for k, (low, high) in enumerate(pairwise(edges))
    )


@pytest.mark.parametrize("bits", [1, 2])
def test_the_constants_are_the_least_squares_ones(bits):
    levels = 2**bits - 1
    best = squared_error(module._RELU_STEP[bits], levels)
    for factor in (0.99, 1.01):
        assert squared_error(factor * module._RELU_STEP[bits], levels) > best
    # Behind a linear layer thresholds are 0, or -1, 0 and 1 standard deviations.
    inside, beyond = (
        integrate.quad(lambda x: x * stats.norm.pdf(x), *limits)[0] * 2
        for limits in ((0, 1), (1, np.inf))
    )
    share = 2 * stats.norm.sf(1)
    nearest = inside + beyond if bits == 1 else (inside + 3 * beyond) / (1 - share + 9 * share)
    assert module._LINEAR_STEP[bits] == pytest.approx(nearest, abs=6e-4)


@pytest.mark.parametrize("bits", [1, 2])
def test_every_activation_is_the_nearest_quantizer_of_the_relu(trained, started, bits):
    network, params = started(bits)
    name, part = "down_c2", "norm1"
    rng = np.random.default_rng()
    y = rng.integers(-6, 7, (2, 8, 8, 4 * WIDTH)).astype(np.float32)  # as quantized layers sum

    source = getattr(getattr(trained[0].model(*trained[1:]), name), part)
    relu = np.asarray(source(jnp.asarray(y)), np.float64)
    model = network.model(params, _statistics(network, trained[2]))
    levels = np.asarray(getattr(getattr(model, name), part)(jnp.asarray(y)))

    step = module._RELU_STEP[bits]
    expected = 2 * np.clip(np.round(relu / step), 0, 2**bits - 1) - (2**bits - 1)
    near_a_threshold = np.abs(relu / step % 1 - 0.5) < 1e-3
    np.testing.assert_array_equal(levels[~near_a_threshold], expected[~near_a_threshold])


def _statistics(network, stats):
    """Those of the full-precision network; its own behind transposed convolutions."""

    def of(path, value):
        found = stats
        for key in path:
            if key.key not in found:
                return value
            found = found[key.key]
        return found

    return jax.tree_util.tree_map_with_path(of, network.initial_stats)


@pytest.mark.parametrize("density", [0.1, 0.3])
def test_the_largest_weights_are_kept(trained, started, density):
    network, params = started(1, density=density)
    source = trained[0].model(*trained[1:])
    for name, layer in network.quantized_layers(params).items():
        found = np.asarray(layer.quantized_weight())
        block, part = name.split(".")
        weight = np.asarray(getattr(getattr(source, block), part).weight[...])
        assert (found != 0).mean() == pytest.approx(density, abs=2 / found.size + 1e-6)
        assert (found * weight >= 0).all()
        if not (block.startswith("up_c") and part == "conv1"):  # whose halves are weighed anew
            assert np.abs(weight[found != 0]).min() >= np.abs(weight[found == 0]).max()


@pytest.mark.parametrize("bits", [1, 2])
def test_logits_are_those_of_the_relus_that_levels_stand_for(trained, started, bits):
    _, params = started(bits)
    head = trained[1]["head"]
    rng = np.random.default_rng()
    levels = rng.choice(2 * np.arange(2**bits) - (2**bits - 1), (50, WIDTH)).astype(np.float64)
    relu = module._RELU_STEP[bits] * (levels + 2**bits - 1) / 2
    np.testing.assert_allclose(
        levels @ np.asarray(params["head"]["weight"]) + np.asarray(params["head"]["bias"]),
        relu @ np.asarray(head["weight"]) + np.asarray(head["bias"]),
        atol=1e-5,
    )


def test_what_goes_up_is_weighed_as_its_spread_asks(trained, images):
    """A channel that varies a hundred times as much counts a hundred times as much."""
    network, params, stats = trained
    louder = jax.tree.map(lambda x: x, params)
    louder["up_ct2"]["conv"]["weight"] = params["up_ct2"]["conv"]["weight"].at[..., 0].multiply(100)
    quiet, loud = (
        quantized_start(network, given, stats, quantized(2, "int8"), images)["up_c2"]["conv1"]
        for given in (params, louder)
    )
    here, there = np.asarray(quiet["weight"]), np.asarray(loud["weight"])
    first_up = here.shape[2] // 2
    inside = (np.abs(here) < 1) & (np.abs(there) < 1)
    ratio = np.where(inside, there / here, np.nan)
    common = np.nanmedian(ratio[:, :, :first_up])
    assert np.nanmedian(ratio[:, :, first_up + 1 :]) == pytest.approx(common, rel=1e-3)
    weights = np.abs(there[:, :, first_up]).mean() / np.abs(there[:, :, first_up + 1]).mean()
    assert weights > 2  # clipping keeps it from 100


@pytest.mark.parametrize("precision", ["binary", "masked", "pow2", "int8", "int4", "ttq"])
def test_every_precision_can_start(started, precision):
    network, params = started(2, precision)
    random = Network.create(network.config, seed=0)[1]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, random)
    for name, layer in network.quantized_layers(params).items():
        found = np.asarray(layer.quantized_weight())
        assert np.isfinite(found).all(), name
        assert len(np.unique(found)) > 1, name


def test_layers_without_a_weight_stay_so(trained, images):
    network, params, stats = trained
    empty = jax.tree.map(lambda x: x, params)
    empty["down_c1"]["conv1"]["weight"] = jnp.zeros_like(params["down_c1"]["conv1"]["weight"])
    start = quantized_start(network, empty, stats, quantized(1), images)
    assert not np.asarray(start["down_c1"]["conv1"]["weight"]).any()
