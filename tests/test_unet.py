"""The U-Net against a NumPy one at every layer."""

import dataclasses
import itertools
from fractions import Fraction
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

from mbu_jax.architecture import LAYER_NAMES
from mbu_jax.errors import InputError
from mbu_jax.layers import LatentWeight, NormActivation
from mbu_jax.unet import UNet, UNetConfig
from tests.oracles import batch_norm, convolution, levels
from tests.oracles.network import EPSILON
from tests.unet_models import (
    CONFIGS,
    ONE_MIX,
    OTHER_MIX,
    QUICKLY,
    oracle_of,
    plain_model,
    random_images,
    random_model,
    run,
)

SHAPES = {
    "one bit": (2, 19, 33),
    "one bit, density": (1, 16, 16),
    "two bits": (1, 17, 30),
    "two bits, twn": (2, 1, 5),
}


def test_the_mixes_hold_every_precision_on_both_kinds_of_convolution() -> None:
    pairs = list(zip(LAYER_NAMES * 2, ONE_MIX + OTHER_MIX, strict=True))
    for transposed in (True, False):
        assert len({p for name, p in pairs if ("ct" in name) is transposed}) == 7


@pytest.mark.parametrize("name", CONFIGS)
def test_every_layer_agrees_bit_for_bit(name: str) -> None:
    config = CONFIGS[name]
    model = random_model(config)
    model.eval()
    images = random_images(config, *SHAPES[name])
    logits, seen = run(model, images)
    oracle = oracle_of(model)
    expected = oracle(images)
    assert set(oracle.seen) == set(seen) - {"logits"}
    levels_seen = set()
    for part, value in oracle.seen.items():
        np.testing.assert_array_equal(seen[part], value, err_msg=part)
        if ".norm" in part:
            assert len(np.unique(value)) > 1, f"{part} is constant and shows nothing"
            levels_seen.update(np.unique(value).tolist())
    one_bit = config.quantization.activation_bits == 1
    assert levels_seen == ({-1, 1} if one_bit else {-3, -1, 1, 3})
    assert logits.dtype == jnp.float32
    assert logits.shape == (*SHAPES[name], config.classes)
    np.testing.assert_array_equal(logits, expected)
    _, height, width = SHAPES[name]
    np.testing.assert_array_equal(seen["logits"][:, :height, :width], logits)


def test_training_normalizes_every_layer_by_its_batch() -> None:
    """Each part is checked on the input that the part before it really gave."""
    config = CONFIGS["one bit"]
    model = random_model(config, seed=1)
    before = oracle_of(model).params
    images = random_images(config, 2, 16, 32, seed=1)
    logits, seen = run(model, images, QUICKLY)
    np.testing.assert_array_equal(logits, seen["logits"])
    for layer in ("stem", *LAYER_NAMES):
        for part in ("1", "2") if "ct" not in layer else ("",):
            y = seen[f"{layer}.conv{part}"].astype(np.float64)
            norm = before[layer][f"norm{part}"]["norm"]
            axes = (0, 1, 2)
            scaled = (y - y.mean(axes)) / np.sqrt(y.var(axes) + EPSILON) * norm["scale"]
            z = scaled + norm["bias"]
            got = seen[f"{layer}.norm{part}"]
            # A whole channel of equal accumulators, or a gamma of almost 0, leaves beta's sign.
            certain = np.abs(z) > 1e-4
            assert certain.mean() > 0.6
            np.testing.assert_array_equal(got[certain], levels.sign(z)[certain], err_msg=layer)
            after = getattr(getattr(model, layer), f"norm{part}").norm
            # Two passes, the network's and the one part by part, moved the running average.
            expected = 0.81 * norm["mean"] + 0.19 * y.mean(axes)
            np.testing.assert_allclose(after.mean[...], expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_leaves_quantized_accumulators_exact() -> None:
    config = dataclasses.replace(CONFIGS["two bits"], dtype="bfloat16")
    model = random_model(config)
    _, seen = run(model, random_images(config, 1, 16, 16), QUICKLY)
    oracle = oracle_of(model)
    inputs = {"stem.conv2": seen["stem.norm1"]}
    skips = ["stem", "down_c1", "down_c2", "down_c3", "down_c4"]
    for before, layer in itertools.pairwise(skips):
        inputs[f"{layer}.conv1"] = convolution.max_pool2x2(seen[f"{before}.norm2"])
    for number, skip in enumerate(reversed(skips[:-1]), start=1):
        below = seen["down_c4.norm2"] if number == 1 else seen[f"up_c{number - 1}.norm2"]
        inputs[f"up_ct{number}.conv"] = below
        joined = [seen[f"{skip}.norm2"], seen[f"up_ct{number}.norm"]]
        inputs[f"up_c{number}.conv1"] = np.concatenate(joined, axis=-1)
    for layer in LAYER_NAMES:
        if "ct" not in layer:
            inputs[f"{layer}.conv2"] = seen[f"{layer}.norm1"]
    assert len(inputs) == 21
    for part, x in inputs.items():
        layer, conv = part.split(".")
        precision = "masked" if layer == "stem" else oracle.precisions[layer]
        weights = oracle.weights(layer, conv, precision)
        if precision == "float32":
            assert seen[part].dtype == jnp.bfloat16
            continue
        linear = convolution.up_conv2x2(x, weights) if conv == "conv" else None
        expected = convolution.conv3x3(x, weights, -3) if linear is None else linear
        assert seen[part].dtype == np.float32
        np.testing.assert_array_equal(seen[part], expected, err_msg=part)
    assert seen["stem.conv1"].dtype == jnp.bfloat16
    assert seen["logits"].dtype == np.float32


def test_full_precision_network() -> None:
    """ReLU, zero padding, and a bias instead of BatchNorm behind transposed convolutions."""
    config = UNetConfig.preset("full_precision", width=4, classes=2)
    model = random_model(config, seed=2)
    rng = np.random.default_rng(2)
    for layer in LAYER_NAMES:
        block = getattr(model, layer)
        if "ct" in layer:
            assert not hasattr(block, "norm")
            block.bias[...] = jnp.asarray(rng.normal(size=block.bias[...].shape), jnp.float32)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, NormActivation):
            module.norm.var[...] = 1 + module.norm.var[...] ** 0.25  # keeps the numbers moderate
    model.eval()
    images = random_images(config, 1, 9, 20)
    logits, seen = run(model, images, QUICKLY)
    oracle = oracle_of(model)
    expected = oracle(images)
    for part, value in oracle.seen.items():
        tolerance = 1e-4 * np.abs(value).max()
        np.testing.assert_allclose(seen[part], value, rtol=1e-4, atol=tolerance, err_msg=part)
        if ".norm" in part:
            assert seen[part].min() == 0
            assert seen[part].max() > 0
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert not nnx.to_pure_dict(nnx.state(model, LatentWeight))


type Gradients = dict[str, Any]


@cache
def trained_once(graph_mode: bool) -> tuple[Array, Array, Gradients, dict[str, Any]]:
    """Loss, logits, gradients and BatchNorm statistics of one pass in training mode."""
    config = CONFIGS["one bit"]
    # Two pixels at the deepest layer would leave BatchNorm no gradient: they become ±1.
    images = jnp.asarray(random_images(config, 2, 32, 48, seed=3))

    def loss(model: UNet, images: Array) -> tuple[Array, Array]:
        logits = model(images)
        return jnp.sum(logits * jnp.cos(jnp.arange(logits.size)).reshape(logits.shape)), logits

    with nnx.set_graph_mode(graph_mode):
        model = plain_model(config, seed=3)
        step = nnx.jit(nnx.value_and_grad(loss, has_aux=True))
        compiled = step.lower(model, images).compile(compiler_options=QUICKLY)
        (value, logits), gradients = compiled(model, images)
        statistics = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return value, logits, nnx.to_pure_dict(nnx.state(gradients, nnx.Param)), statistics


def test_every_weight_receives_a_gradient() -> None:
    _, logits, gradients, _ = trained_once(graph_mode=True)
    assert np.unique(np.asarray(logits)).size > 10
    leaves = jax.tree.leaves_with_path(gradients)
    assert len(leaves) == 23 + 2 * 22 + 1
    for path, gradient in leaves:
        where = jax.tree_util.keystr(path)
        assert jnp.isfinite(gradient).all(), where
        assert jnp.count_nonzero(gradient) > gradient.size // 10, where


def test_graph_and_tree_mode_agree() -> None:
    graph, tree = trained_once(graph_mode=True), trained_once(graph_mode=False)
    assert jax.tree.structure(graph) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, graph, tree)
    moved = jax.tree.leaves_with_path(graph[3])
    assert len(moved) == 2 * 22
    for path, value in moved:
        assert (value != (1 if "var" in str(path[-1]) else 0)).any(), jax.tree_util.keystr(path)


def test_kinds_of_input_agree() -> None:
    """Bytes and floats, one image and a batch; another rank, type or depth is refused."""
    model = random_model(dataclasses.replace(CONFIGS["one bit"], in_channels=2), seed=4)
    model.eval()
    pixels = np.random.default_rng(4).integers(0, 256, (1, 16, 16, 2)).astype(np.uint8)
    floats = (pixels / 255).astype(np.float32)

    @nnx.jit
    def every_way(model: UNet, pixels: Array, floats: Array) -> list[Array]:
        return [model(pixels), model(floats), model(pixels[0])[None], model(floats[0])[None]]

    operands = (model, jnp.asarray(pixels), jnp.asarray(floats))
    outputs = every_way.lower(*operands).compile(compiler_options=QUICKLY)(*operands)
    assert np.unique(np.asarray(outputs[0])).size > 1
    for output in outputs:
        np.testing.assert_array_equal(output, outputs[0])
    shapes = "have shape .*; give \\[B, H, W, 2\\] or \\[H, W, 2\\]"
    for bad, message in (
        (jnp.zeros((16, 16)), shapes),
        (jnp.zeros((1, 1, 16, 16, 2)), shapes),
        (jnp.zeros((1, 16, 16, 3)), shapes),
        (jnp.zeros((16, 16, 1)), shapes),
        (jnp.zeros((1, 16, 16, 2), jnp.int32), "dtype int32; give uint8, or float32"),
        (jnp.zeros((1, 16, 16, 2), bool), "dtype bool; give uint8, or float32"),
        (jnp.zeros((1, 0, 16, 2)), "image size 0x16"),
    ):
        with pytest.raises(InputError, match=message):
            model(bad)


def test_evaluation_uses_thresholds_of_the_moment() -> None:
    model = random_model(CONFIGS["one bit"])
    norms = [m for _, m in nnx.iter_modules(model) if isinstance(m, NormActivation)]
    assert len(norms) == 22
    assert all((norm.theta[...] == 0).all() for norm in norms)
    model.eval()
    assert all(norm.use_running_average for norm in norms)
    for norm in norms:
        statistics = (norm.norm.scale, norm.norm.bias, norm.norm.mean, norm.norm.var)
        gamma, beta, mean, var = (
            np.asarray(v[...], np.float64) for v in statistics if v is not None
        )
        mean, var, epsilon = (
            norm.factor * mean,
            norm.factor**2 * var,
            Fraction(norm.factor) ** 2 * Fraction(EPSILON),
        )
        theta, sign = np.asarray(norm.theta[0]), np.asarray(norm.sign[...])
        reachable = np.abs(theta) < 2**20
        assert reachable.any()
        theta = np.where(reachable, theta, 0)  # constant channels
        below = theta - 1 if norm.integer else np.nextafter(theta, np.float32(-np.inf))
        y = sign * np.stack([theta, below])
        passes = batch_norm.activations(y, gamma, beta, mean, var, epsilon, bits=1)
        assert (passes[0, reachable] == 1).all()
        assert (passes[1, reachable] == -1).all()
    model.train()
    assert not any(norm.use_running_average for norm in norms)


@pytest.mark.parametrize("call", ["eval", "fold"])
def test_evaluation_mode_cannot_be_entered_under_jit(call: str) -> None:
    model = plain_model(UNetConfig(width=4))
    with pytest.raises(InputError, match=r"outside jit; call the model's eval\(\) or fold\(\)"):
        nnx.jit(lambda model: getattr(model, call)())(model)
