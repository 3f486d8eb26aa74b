"""The packed network against the model it came from, bit for bit, wherever it runs."""

import contextlib
import functools
import math
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import mbu_jax
from mbu_jax.activations import model_with_activations
from mbu_jax.errors import InputError
from mbu_jax.inference import _TELLING, _tell_once, infer, infer_with_activations, pack
from mbu_jax.layers import QuantizationOptions
from mbu_jax.packing import PackedUNet
from mbu_jax.unet import UNet, UNetConfig
from tests.random_packed import random_packed

MIXED = ("binary", "masked", "pow2") * 4


def a_model(config: UNetConfig) -> UNet:
    """A network as if trained: gammas of either sign, 0 and tiny, weights of every level."""
    rng = np.random.default_rng(config.width)

    def value(variable: jax.ShapeDtypeStruct) -> Array:
        return jnp.asarray(rng.normal(0, 0.6, variable.shape).clip(-1, 1), variable.dtype)

    graph, state = nnx.split(nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0))))
    model = nnx.merge(graph, jax.tree.map(value, state))
    for _, module in nnx.iter_modules(model):
        if not isinstance(module, nnx.BatchNorm):
            continue
        assert module.scale is not None
        channels = module.mean.shape[0]
        gamma = rng.normal(0, config.quantization.activation_bits, channels)
        gamma[:3] = 0, 1e-30, -1e-30
        module.scale[...] = jnp.asarray(gamma, jnp.float32)
        module.mean[...] = jnp.asarray(rng.normal(0, 3, channels), jnp.float32)
        module.var[...] = jnp.asarray(rng.uniform(0, 9 * channels, channels), jnp.float32)
    return model


@pytest.mark.parametrize(
    ("width", "precisions", "bits", "dtype", "shape"),
    [
        (4, MIXED, 2, "bfloat16", (2, 19, 33, 3)),
        (48, ("binary", "masked") * 6, 1, "float32", (1, 1, 1, 3)),
    ],
)
def test_every_bit_is_the_models(
    width: int, precisions: tuple[Any, ...], bits: int, dtype: Any, shape: tuple[int, ...]
) -> None:
    options = QuantizationOptions(activation_bits=bits)
    model = a_model(UNetConfig(width, 3, 2, precisions, options, dtype))
    model.eval()
    images = jnp.asarray(np.random.default_rng(1).random(shape), jnp.float32)
    expected, activations = nnx.jit(model_with_activations)(model, images)
    np.testing.assert_array_equal(nnx.jit(lambda model, x: model(x))(model, images), expected)
    params = pack(model)
    logits, words = jax.jit(infer_with_activations)(params, images)
    assert activations.keys() == words.keys() == {"stem.conv1", *params.conv_names}
    for name, expected_words in activations.items():
        np.testing.assert_array_equal(words[name], expected_words, err_msg=name)
    np.testing.assert_array_equal(logits, expected)
    assert np.unique(expected).size > 1


@pytest.fixture(scope="module")
def params() -> PackedUNet:
    return random_packed(UNetConfig(width=4, precisions=MIXED))


@pytest.fixture(scope="module")
def images() -> Array:
    return jnp.asarray(np.random.default_rng(2).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8))


@pytest.fixture(scope="module")
def logits(params: PackedUNet, images: Array) -> Array:
    return infer(params, images)


def test_logits_are_float32_and_of_bytes_as_of_their_quotients(
    params: PackedUNet, images: Array, logits: Array
) -> None:
    assert (logits.shape, logits.dtype) == ((2, 16, 16, 1), jnp.float32)
    assert np.unique(logits).size > 1
    quotients = jnp.asarray(np.asarray(images) / np.float32(255))
    np.testing.assert_array_equal(infer(params, quotients), logits)


@pytest.mark.parametrize("engine", ["xla", "bitsliced"])
def test_no_images_have_no_logits(params: PackedUNet, images: Array, engine: str) -> None:
    run = functools.partial(infer, params, implementation=engine)
    assert run(images[:0]).shape == (0, *images.shape[1:3], 1)
    assert jax.vmap(run)(images[:0]).shape == (0, *images.shape[1:3], 1)
    assert jax.vmap(run)(images[None, :0]).shape == (1, 0, *images.shape[1:3], 1)


def test_mapped_single_images_are_a_batch(params: PackedUNet, images: Array, logits: Array) -> None:
    np.testing.assert_array_equal(jax.vmap(functools.partial(infer, params))(images), logits)


@pytest.mark.parametrize("engine", ["xla", "bitsliced"])
@pytest.mark.parametrize(
    ("axis_type", "is_set"),
    [(AxisType.Auto, False), (AxisType.Explicit, False), (AxisType.Explicit, True)],
)
def test_a_batch_split_over_devices_stays_split(
    params: PackedUNet, engine: str, axis_type: AxisType, is_set: bool
) -> None:
    images = jnp.asarray(np.random.default_rng(5).integers(0, 256, (4, 19, 33, 3)).astype(np.uint8))
    expected = infer(params, images, implementation=engine)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(axis_type,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    placed = jax.device_put(params, everywhere), jax.device_put(images, split)
    run = functools.partial(infer, implementation=engine)
    with jax.set_mesh(mesh) if is_set else contextlib.nullcontext():
        program = jax.jit(run).lower(*placed).compile()
        collectives = r"all-gather|all-to-all|all-reduce|collective-permute"
        assert not re.findall(collectives, program.as_text() or "")
        found = program(*placed)
    assert found.sharding.is_equivalent_to(split, found.ndim)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_images_that_are_not_split_are_segmented_where_a_mesh_is_set(
    params: PackedUNet, images: Array, logits: Array, axis_type: AxisType
) -> None:
    with jax.set_mesh(jax.make_mesh((2,), ("data",), axis_types=(axis_type,))):
        np.testing.assert_array_equal(jax.jit(infer)(params, images), logits)


def test_a_program_for_a_gpu_is_exported_on_a_machine_without(
    params: PackedUNet, images: Array
) -> None:
    run = jax.jit(functools.partial(infer, params))
    exported = jax.export.export(run, platforms=["cuda"])(images)
    assert exported.platforms == ("cuda",)
    assert exported.out_avals[0].shape == (2, 16, 16, 1)
    assert "custom_call" not in exported.mlir_module().replace("@Sharding", "")


def test_a_gpu_is_given_no_convolution_of_the_image(params: PackedUNet, images: Array) -> None:
    """It might transform one, and sums near 2^23 would lose bits."""
    model = a_model(UNetConfig(4))
    model.eval()
    for run in (functools.partial(infer, params, implementation="xla"), model.stem.conv1):
        text = jax.jit(run).trace(images).lower(lowering_platforms=("cuda",)).as_text()
        assert "stablehlo.convolution" not in text
        assert "precision = [HIGHEST, HIGHEST]" in text


def test_no_array_of_floats_has_all_channels(params: PackedUNet) -> None:
    """Neither between stem and head nor in them: the image is the largest."""
    image = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)
    run = jax.jit(functools.partial(infer, implementation="xla"))
    text = run.lower(params, image).as_text()
    shapes = re.findall(r"tensor<((?:\d+x)+)f32>", text)
    sizes = [math.prod(int(n) for n in shape.split("x")[:-1]) for shape in shapes]
    assert 512 * 512 * 3 <= max(sizes) < 512 * 512 * 4


def test_a_derivative_is_refused(params: PackedUNet, images: Array) -> None:
    with pytest.raises(InputError, match="train with the model"):
        jax.grad(lambda x: infer(params, x).sum())(images.astype(jnp.float32) / 255)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1, 16, 16, 4), jnp.float32, r"give \[B, H, W, 3\]"),
        ((16, 16), jnp.float32, r"give \[B, H, W, 3\]"),
        ((1, 16, 16, 3), jnp.int32, "dtype int32"),
        ((1, 0, 16, 3), jnp.float32, "at least 1 pixel"),
    ],
)
def test_images_that_do_not_fit_are_refused(
    params: PackedUNet, shape: tuple[int, ...], dtype: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        infer(params, jnp.zeros(shape, dtype))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fast", "unknown implementation 'fast' of stem"),
        ("bmma@cuda", "implementation is 'bmma@cuda'; name the engine alone, 'bmma'"),
    ],
)
def test_an_unknown_engine_is_refused(
    params: PackedUNet, images: Array, name: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        jax.eval_shape(lambda: infer(params, images, implementation=name))


@pytest.mark.parametrize("precision", ["float32", "int8", "int4", "int2"])
def test_a_layer_that_cannot_be_packed_is_named(precision: Any) -> None:
    model = UNet(UNetConfig(width=4, precisions=(precision, *MIXED[1:])), rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match=f"down_c1 has {precision} weights.*train it with"):
        pack(model)


def test_a_full_precision_model_cannot_be_packed() -> None:
    model = UNet(UNetConfig.preset("full_precision", width=4), rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match="activation_bits is 32"):
        pack(model)


def test_packing_is_for_values_not_for_tracers() -> None:
    model = UNet(UNetConfig(width=4), rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match="outside jit"):
        nnx.jit(pack)(model)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: UNet(UNetConfig(width=1), rngs=nnx.Rngs(0)),
            "UNet; pack it first: mbu_jax.pack(model)",
        ),
        (lambda: "a.safetensors", "str; load it first: mbu_jax.load_packed(path)"),
        (lambda: Path("a.safetensors"), "PosixPath; load it first: mbu_jax.load_packed(path)"),
        (lambda: None, "NoneType; give what mbu_jax.pack or mbu_jax.load_packed gave"),
    ],
)
def test_what_is_no_packed_network_is_told_with_the_remedy(
    make: Callable[[], Any], said: str, tmp_path: Path
) -> None:
    network = make()
    images = jnp.zeros((1, 16, 16, 3))
    calls: list[Callable[[], Any]] = [
        lambda: mbu_jax.infer(network, images),
        lambda: infer_with_activations(network, images),
        lambda: mbu_jax.prepare(network, (1, 16, 16, 3)),
        lambda: mbu_jax.export(network, (1, 16, 16, 3)),
        lambda: mbu_jax.save_packed(tmp_path / "a.safetensors", network),
    ]
    if not isinstance(network, UNet):  # which these two take
        calls.append(lambda: mbu_jax.predict(network, images))
        calls.append(lambda: mbu_jax.summary(network))
    for call in calls:
        with pytest.raises(InputError, match=f"^(params|network) is of type {re.escape(said)}$"):
            call()


@pytest.mark.parametrize("model", ["runs/a", None])
def test_what_is_no_model_cannot_be_packed(model: Any) -> None:
    with pytest.raises(InputError, match=r"^model is of type .*; give a mbu_jax\.UNet$"):
        pack(model)


def test_only_a_cpu_is_told_what_its_library_lacks(
    params: PackedUNet, images: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbu_jax.ops.bitsliced.library.absent", lambda: "it is away")
    _tell_once.cache_clear()
    assert "mbu_telling" in str(jax.make_jaxpr(functools.partial(infer, params))(images))
    traced = jax.jit(lambda x: _TELLING(x, None)).trace(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        traced.lower(lowering_platforms=("cuda",))
    with pytest.warns(UserWarning, match="bitsliced engine cannot run, so xla does: it is away"):
        traced.lower(lowering_platforms=("cpu",))
    _tell_once.cache_clear()


def test_programs_with_64_bits_give_the_same_logits() -> None:
    """Where the user has JAX_ENABLE_X64, numbers without a type are twice as wide."""
    source = """
import jax, numpy as np
from flax import nnx
import mbu_jax

config = mbu_jax.UNetConfig.preset("all_masked", width=2)
model = mbu_jax.UNet(config, rngs=nnx.Rngs(0))
model.eval()
images = np.arange(20 * 17 * 3).astype(np.uint8).reshape(1, 20, 17, 3)
logits = np.asarray(model(images))
assert logits.dtype == np.float32
assert {leaf.dtype.name for leaf in jax.tree.leaves(nnx.state(model))} == {"float32"}
params = mbu_jax.pack(model)
for engine in ("xla", "bitsliced"):
    np.testing.assert_array_equal(mbu_jax.infer(params, images, implementation=engine), logits)
assert jax.numpy.zeros(1).dtype == np.float64
"""
    environment = os.environ | {"JAX_ENABLE_X64": "1"}
    run = [sys.executable, "-c", source]
    ended = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
