"""The U-Net against a NumPy one at every layer, and its configuration."""

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from mbu_jax.architecture import LAYER_NAMES
from mbu_jax.convolution import max_pool2x2
from mbu_jax.errors import InputError
from mbu_jax.layers import LatentWeight, NormActivation, QuantizationOptions
from mbu_jax.unet import UNet, UNetConfig, image_to_float
from tests.oracles import batch_norm, convolution, levels
from tests.oracles.network import EPSILON, UNetOracle

# Each of the seven precisions on some pair of 3x3 convolutions and on some transposed one.
ONE_MIX = ("int8", "int4", "int2", "pow2", "masked", "binary", "int8", "float32", "float32",
           "masked", "pow2", "binary")  # fmt: skip
OTHER_MIX = ("float32", "masked", "binary", "int8", "int4", "int2", "binary", "pow2", "int2",
             "int4", "masked", "int8")  # fmt: skip

CONFIGS = {
    "one bit": UNetConfig(width=4, precisions=ONE_MIX),
    "one bit, density": UNetConfig(
        width=5, in_channels=1, classes=3, precisions=OTHER_MIX,
        quantization=QuantizationOptions(ternarizer="density", density=0.2),
    ),
    "two bits": UNetConfig(
        width=4, precisions=OTHER_MIX, quantization=QuantizationOptions(activation_bits=2)
    ),
    "two bits, twn": UNetConfig(
        width=4, in_channels=4, classes=2, precisions=ONE_MIX,
        quantization=QuantizationOptions(activation_bits=2, ternarizer="twn"),
    ),
}  # fmt: skip
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


def dyadic(values: NDArray) -> Array:
    """Multiples of 1/64: sums of their products are exact in float32, in any order."""
    return jnp.asarray(np.rint(64 * values) / 64, jnp.float32)


def plain_model(config: UNetConfig, seed: int = 0) -> UNet:
    """A network with random weights and fresh BatchNorms, drawn by NumPy: nothing is compiled."""
    rng = np.random.default_rng(seed)
    structure, state = nnx.split(nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0))))
    state = jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), state)
    model = nnx.merge(structure, state)
    for path, variable in nnx.iter_graph(model):
        if not isinstance(variable, nnx.Variable):
            continue
        shape = variable[...].shape
        if isinstance(variable, LatentWeight):
            ties = rng.choice(np.array([-1, -0.5, 0, 0.375, 0.5, 0.75, 1]), shape)
            drawn = np.clip(0.4 * rng.normal(size=shape), -1, 1)
            latent = np.where(rng.random(shape) < 0.1, ties, drawn)
            variable.set_value(jnp.asarray(latent, jnp.float32))
        elif path[-1] == "weight":
            fan_in = math.prod(shape[:-1])
            variable.set_value(dyadic(rng.normal(size=shape) * math.sqrt(2 / fan_in)))
        elif path[-1] in ("scale", "var"):
            variable.set_value(jnp.asarray(np.ones(shape, np.float32)))
        elif path[-2:] == ("head", "bias"):
            variable.set_value(dyadic(rng.normal(size=shape)))
    return model


def random_model(config: UNetConfig, seed: int = 0) -> UNet:
    """A network whose BatchNorms flip, silence and saturate some of their channels."""
    rng = np.random.default_rng(seed)
    model = plain_model(config, seed)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, NormActivation):
            (channels,) = module.norm.mean[...].shape
            kind = rng.integers(0, 10, channels)
            gamma = np.where(kind == 0, 0, rng.normal(size=channels))
            gamma = np.where(kind == 1, 1e-20 * gamma, gamma)
            # Where beta is 0 and the mean whole, accumulators lie exactly on the threshold.
            exact = rng.random(channels) < 0.3
            mean = 4 * rng.normal(size=channels)
            values = {
                "scale": gamma,
                "bias": np.where(exact, 0, 0.5 * rng.normal(size=channels)),
                "mean": np.where(exact, np.rint(mean), mean),
                "var": 10 ** rng.uniform(-1, 4, channels),
            }
            for name, value in values.items():
                getattr(module.norm, name).set_value(jnp.asarray(value, jnp.float32))
    return model


def random_images(config: UNetConfig, *shape: int, seed: int = 0) -> NDArray:
    size = (*shape, config.in_channels)
    return (np.random.default_rng(seed).integers(0, 65, size) / 64).astype(np.float32)


def part_by_part(model: UNet, images: Array) -> dict[str, Array]:
    """Output of every convolution and activation on images of a padded size."""
    seen = {}

    def double_conv(name: str, x: Array) -> Array:
        block = getattr(model, name)
        seen[f"{name}.conv1"] = y = block.conv1(x)
        seen[f"{name}.norm1"] = x = block.norm1(y)
        seen[f"{name}.conv2"] = y = block.conv2(x)
        seen[f"{name}.norm2"] = x = block.norm2(y)
        return x

    def up(name: str, x: Array) -> Array:
        block = getattr(model, name)
        seen[f"{name}.conv"] = y = block.conv(x)
        if not block.quantized:
            return block(x)
        seen[f"{name}.norm"] = x = block.norm(y)
        return x

    skips = [double_conv("stem", 2 * image_to_float(images) - 1)]
    for name in ("down_c1", "down_c2", "down_c3", "down_c4"):
        skips.append(double_conv(name, max_pool2x2(skips[-1])))
    y = skips.pop()
    for number in "1234":
        y = jnp.concatenate([skips.pop(), up(f"up_ct{number}", y)], axis=-1)
        y = double_conv(f"up_c{number}", y)
    seen["logits"] = model.head(y)
    return seen


@nnx.jit
def answer_and_parts(model: UNet, images: Array) -> tuple[Array, dict[str, Array]]:
    _, height, width, _ = images.shape
    border = ((0, 0), (0, -height % 16), (0, -width % 16), (0, 0))
    return model(images), part_by_part(model, jnp.pad(images, border, mode="edge"))


# Compiling is the cost of these tests; this takes a third of the time.
QUICKLY = {"xla_backend_optimization_level": 0}


def run(
    model: UNet, images: NDArray, options: dict[str, Any] | None = None
) -> tuple[Array, dict[str, NDArray]]:
    """The network's own answer, and what each part gives."""
    operands = (model, jnp.asarray(images))
    compiled = answer_and_parts.lower(*operands).compile(compiler_options=options)
    logits, seen = compiled(*operands)
    return logits, {name: np.asarray(value) for name, value in seen.items()}


def oracle_of(model: UNet) -> UNetOracle:
    config = model.config
    return UNetOracle(
        params=jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model))),
        precisions=dict(zip(LAYER_NAMES, config.precisions, strict=True)),
        bits=config.quantization.activation_bits,
        ternarizer=config.quantization.ternarizer,
        density=config.quantization.density,
    )


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
    model.eval()
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


def test_image_to_float() -> None:
    every_byte = np.arange(256, dtype=np.uint8)
    got = image_to_float(jnp.asarray(every_byte))
    np.testing.assert_array_equal(got, every_byte.astype(np.float32) / np.float32(255))
    assert image_to_float(jnp.ones(2, jnp.bfloat16)).dtype == jnp.float32


def test_evaluation_uses_thresholds_of_the_moment() -> None:
    model = random_model(CONFIGS["one bit"])
    norms = [m for _, m in nnx.iter_modules(model) if isinstance(m, NormActivation)]
    assert len(norms) == 22
    assert all((norm.theta[...] == 0).all() for norm in norms)
    model.eval()
    assert all(norm.use_running_average for norm in norms)
    for norm in norms:
        statistics = (norm.norm.scale, norm.norm.bias, norm.norm.mean, norm.norm.var)
        gamma, beta, mean, var = (np.asarray(v[...]) for v in statistics if v is not None)
        theta, sign = np.asarray(norm.theta[0]), np.asarray(norm.sign[...])
        reachable = np.abs(theta) < 2**20
        assert reachable.any()
        theta = np.where(reachable, theta, 0)  # constant channels
        below = theta - 1 if norm.integer else np.nextafter(theta, np.float32(-np.inf))
        y = sign * np.stack([theta, below])
        passes = batch_norm.activations(y, gamma, beta, mean, var, EPSILON, bits=1)
        assert (passes[0, reachable] == 1).all()
        assert (passes[1, reachable] == -1).all()
    model.train()
    assert not any(norm.use_running_average for norm in norms)


@pytest.mark.parametrize("call", ["eval", "fold"])
def test_evaluation_mode_cannot_be_entered_under_jit(call: str) -> None:
    model = plain_model(UNetConfig(width=4))
    with pytest.raises(InputError, match=r"outside jit; call the model's eval\(\) or fold\(\)"):
        nnx.jit(lambda model: getattr(model, call)())(model)


def abstract_parameters(config: UNetConfig) -> dict[str, Any]:
    model = nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def count(parameters: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameters))


def test_parameter_count_of_the_paper() -> None:
    parameters = abstract_parameters(UNetConfig())
    weights = [p for path, p in jax.tree.leaves_with_path(parameters) if "weight" in str(path[-1])]
    assert len(weights) == 23
    assert count(weights) == 14_776_064
    assert f"{count(weights) / 1e6:.2f}" == "14.78"
    channels = 2 * (64 + 128 + 256 + 512 + 512 + 256 + 128 + 64 + 64) + 512 + 256 + 128 + 64
    assert count(parameters) == count(weights) + 2 * channels + 1
    assert parameters["up_c1"]["conv1"]["weight"].shape == (3, 3, 1024, 256)
    assert parameters["down_c4"]["conv2"]["weight"].shape == (3, 3, 512, 512)
    assert parameters["up_ct1"]["conv"]["weight"].shape == (2, 2, 512, 512)
    full = abstract_parameters(UNetConfig.preset("full_precision"))
    assert count(full) == count(parameters) - (512 + 256 + 128 + 64)


ONLY = {name: (precision,) * 12 for name, precision in (
    ("full_precision", "float32"), ("int8", "int8"), ("int4", "int4"),
    ("all_masked", "masked"), ("binary", "binary"),
)}  # fmt: skip
CHEAPEST = ("up_ct4", "up_ct3", "up_ct2", "up_ct1", "up_c3", "down_c1", "up_c2", "down_c2",
            "up_c4", "up_c1", "down_c4", "down_c3")  # fmt: skip


@pytest.mark.parametrize("name", ONLY)
def test_presets_of_table_1(name: Any) -> None:
    config = UNetConfig.preset(name, width=8, in_channels=1, classes=4, dtype="bfloat16")
    assert config.precisions == ONLY[name]
    assert config.quantization.activation_bits == (32 if name == "full_precision" else 1)
    sizes = (config.width, config.in_channels, config.classes, config.dtype)
    assert sizes == (8, 1, 4, "bfloat16")


@pytest.mark.parametrize("masked_layers", [0, 1, 6, 12])
def test_mbu_masks_the_cheapest_layers(masked_layers: int) -> None:
    config = UNetConfig.preset("mbu", masked_layers=masked_layers)
    masked = {n for n, p in zip(LAYER_NAMES, config.precisions, strict=True) if p == "masked"}
    assert masked == set(CHEAPEST[:masked_layers])
    assert set(config.precisions) <= {"masked", "binary"}
    assert (config.width, config.quantization.activation_bits) == (64, 1)


def test_a_preset_takes_other_quantization() -> None:
    options = QuantizationOptions(activation_bits=2, ternarizer="density", density=0.3)
    assert UNetConfig.preset("mbu", quantization=options).quantization == options
    full = UNetConfig.preset("full_precision", quantization=options).quantization
    assert full == dataclasses.replace(options, activation_bits=32)
    assert UNetConfig.preset("mbu") == UNetConfig.preset("mbu", masked_layers=6)


@pytest.mark.parametrize(
    "call",
    [
        lambda unknown: UNetConfig.preset(unknown),
        lambda _: UNetConfig.preset("mbu", masked_layers=13),
        lambda _: UNetConfig.preset("mbu", masked_layers=-1),
        lambda _: UNetConfig.preset("binary", width=0),
    ],
)
def test_bad_presets_are_told(call: Callable[[Any], UNetConfig]) -> None:
    with pytest.raises(InputError, match=r"'int3'; choose one of full_precision|13|-1|width is 0"):
        call("int3")


@pytest.mark.parametrize(
    "config", [*CONFIGS.values(), UNetConfig(), UNetConfig.preset("full_precision", classes=7)]
)
def test_a_configuration_survives_json(config: UNetConfig) -> None:
    back = UNetConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert back == config
    assert hash(back) == hash(config)


WHOLE = "must be (a whole number of )?at least 1"
BAD_FIELDS = [
    *((name, value, f"{name} is .*{WHOLE}") for name in ("width", "in_channels", "classes")
      for value in (0, -3, 4.0, "4", None, True, [4], math.nan)),
    *(("precisions", value, "precisions is .*; give a tuple with one entry for each of down_c1")
      for value in (None, "masked", 5, [], ["masked"] * 11, ["masked"] * 13, {"down_c1": "int8"})),
    ("precisions", ["int3"] + ["masked"] * 11, "down_c1 has unknown precision 'int3'; choose"),
    ("precisions", ["masked"] * 11 + [None], "up_c4 has unknown precision None; choose"),
    *(("dtype", value, "dtype is .*; choose float32 or bfloat16")
      for value in ("float16", None, 3, ["float32"])),
    *(("quantization", value, "quantization is .*, not a table")
      for value in (None, "x", [1], 3)),
    ("quantization", {}, "quantization lacks activation_bits"),
    ("depth", 4, "the network's configuration has unknown depth"),
]  # fmt: skip
BAD_OPTIONS = [
    *(("activation_bits", value, "activation_bits is .*; choose 1, 2 or 32")
      for value in (0, 3, -1, 1.0, "1", None, True, [1])),
    ("activation_bits", 32, "activation_bits 32 goes with float32 weights in every layer"),
    *(("density", value, "density is .*; choose a share between 0 and 1")
      for value in (0.0, 1.0, -0.1, 1.5, math.nan, "0.1", None, True, [0.1])),
    *((name, value, f"{name} is .*; choose one of {known}")
      for name, known in (("weight_gradient", "clipped, approx_sign, swish_sign"),
                          ("activation_gradient", "clipped, approx_sign, swish_sign"),
                          ("ternarizer", "fixed, twn, density"))
      for value in ("third", None, 1, ["clipped"])),
    ("levels", 3, "quantization has unknown levels"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "message"), BAD_FIELDS)
def test_a_bad_field_is_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        UNetConfig.from_dict(UNetConfig().to_dict() | {field: value})


@pytest.mark.parametrize(("field", "value", "message"), BAD_OPTIONS)
def test_a_bad_option_is_named(field: str, value: Any, message: str) -> None:
    fields = UNetConfig().to_dict()
    fields["quantization"][field] = value
    with pytest.raises(InputError, match=message):
        UNetConfig.from_dict(fields)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(UNetConfig)])
def test_a_missing_field_is_named(field: str) -> None:
    fields = UNetConfig().to_dict()
    del fields[field]
    with pytest.raises(InputError, match=f"lacks {field}; restore config.json"):
        UNetConfig.from_dict(fields)


@pytest.mark.parametrize("fields", [None, [], "masked", 3])
def test_something_else_than_a_table_is_told(fields: Any) -> None:
    with pytest.raises(InputError, match=r"not a table of options; restore config\.json"):
        UNetConfig.from_dict(fields)


def test_sums_beyond_exact_integers_are_refused() -> None:
    """The widest sum has 16 c channels, nine taps, the largest activation and weight."""
    for precision, level in (("int8", 127), ("int4", 7), ("pow2", 4), ("masked", 1)):
        for bits, activation in ((1, 1), (2, 3)):
            widest = (2**24 - 1) // (16 * 9 * activation * level)
            sizes: dict[str, Any] = {
                "precisions": (precision,) * 12,
                "quantization": QuantizationOptions(activation_bits=bits),
            }
            assert UNetConfig(width=widest, **sizes).width == widest
            with pytest.raises(InputError, match=rf"width {widest + 1} lets sums reach .*2\^24"):
                UNetConfig(width=widest + 1, **sizes)


def test_quantization_must_be_options() -> None:
    bad: Any = {"activation_bits": 1}
    with pytest.raises(InputError, match=r"quantization is .*; give QuantizationOptions"):
        UNetConfig(quantization=bad)
