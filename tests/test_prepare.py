"""Prepared networks give the packed network's logits, wherever they are passed."""

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxlib import gpu_triton

from mbu_jax.errors import InputError
from mbu_jax.inference import infer
from mbu_jax.layers import QuantizationOptions
from mbu_jax.ops.operation import default_platform
from mbu_jax.packing import PackedUNet
from mbu_jax.prepare import Prepared, prepare
from mbu_jax.unet import UNetConfig
from tests.random_packed import random_packed

SIZE = (19, 33)


def network(bits: int) -> PackedUNet:
    config = UNetConfig(
        width=2,
        precisions=("binary", "masked", "pow2") * 4,
        quantization=QuantizationOptions(activation_bits=bits),
    )
    return random_packed(config)


def random_images(*shape: int) -> Array:
    images = np.random.default_rng(0).integers(0, 256, (*shape, 3))
    return jnp.asarray(images.astype(np.uint8))


@pytest.fixture(scope="module")
def params() -> PackedUNet:
    return network(1)


@pytest.fixture(scope="module")
def segment(params) -> Prepared:
    return prepare(params, (2, *SIZE, 3))


@pytest.fixture(scope="module")
def images() -> Array:
    return random_images(4, *SIZE)


@pytest.fixture(scope="module")
def logits(params, images) -> np.ndarray:
    return np.asarray(infer(params, images))


def test_logits_are_those_of_infer(segment, images, logits) -> None:
    found = segment(images[:2])
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, logits[:2])
    assert np.unique(logits).size == 4


def test_two_bits_and_floats_are_those_of_infer() -> None:
    params, images = network(2), random_images(7, 18).astype(jnp.float32) / 255
    segment = prepare(params, images.shape, implementation="bitsliced", dtype=np.float32)
    expected = infer(params, images)
    np.testing.assert_array_equal(segment(images), expected)
    assert np.unique(expected).size > 9


def test_it_is_a_pytree_that_is_passed_and_moved(segment, images, logits) -> None:
    moved = jax.device_put(segment, jax.devices()[1])
    run = jax.jit(lambda segment, images: segment(images) + 1)
    found = run(moved, images[:2])
    assert found.devices() == {jax.devices()[1]}
    np.testing.assert_array_equal(found, logits[:2] + 1)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(segment))
    run = jax.jit(segment)
    np.testing.assert_array_equal(run(images[2:]), logits[2:])


def test_it_is_mapped(segment, images, logits) -> None:
    found = jax.vmap(segment)(images.reshape(2, 2, *images.shape[1:]))
    np.testing.assert_array_equal(found.reshape(logits.shape), logits)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_a_sharded_batch_stays_where_it_is(segment, images, logits, axis_type: AxisType) -> None:
    mesh = jax.make_mesh((2,), ("data",), axis_types=(axis_type,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    placed = jax.device_put(images[:2], sharding)
    for run in (segment, jax.jit(segment)):
        found = run(placed)
        assert found.sharding.is_equivalent_to(sharding, found.ndim)
        np.testing.assert_array_equal(found, logits[:2])


def test_what_is_compiled_goes_with_the_network(params, images, logits) -> None:
    segment = prepare(params, (1, *SIZE, 3))
    moved = jax.device_put(segment, jax.devices()[1])
    for run in (segment, jax.jit(segment), moved):
        np.testing.assert_array_equal(run(images[:1]), logits[:1])
    assert moved.run is segment.run
    kept = weakref.ref(segment.program), weakref.ref(segment.run)
    del segment, moved, run
    gc.collect()
    assert [each() for each in kept] == [None, None]


def test_nothing_is_left_to_arrange_on_a_gpu(params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_triton, "TritonKernel", object(), raising=False)
    segment = prepare(params, (2, *SIZE, 3), platform="cuda", compute_capability=90)
    constants = set(segment.program.constvars)
    readers = [
        equation
        for equation in segment.program.eqns
        if any(isinstance(x, jax.extend.core.Var) and x in constants for x in equation.invars)
    ]
    # The stem, 21 convolutions and the head.
    assert len(readers) == 23
    for equation in readers:
        assert equation.primitive.name.startswith("mbu_")
        assert equation.params["arranged"] is not None
        assert equation.params["machine"].compute_capability == 90
    with pytest.raises(InputError, match="was traced for cuda and cannot run on cpu"):
        segment(random_images(2, *SIZE))


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        ((1, 16, 16, 4), {}, r"images have shape \(1, 16, 16, 4\)"),
        ((1, 0, 16, 3), {}, r"shape is \(1, 0, 16, 3\); give"),
        ((None, 16, 16, 3), {}, r"shape is \(None, 16, 16, 3\); give"),
        ((16, 16), {}, r"shape is \(16, 16\); give"),
        ((1, 16, 16, 3), {"dtype": np.int32}, "dtype is int32; choose uint8 or float32"),
        ((1, 16, 16, 3), {"platform": "gpu"}, "platform is 'gpu'; choose one of cpu, cuda, rocm"),
        (
            (1, 16, 16, 3),
            {"platform": "cpu", "compute_capability": 90},
            "a program for cpu has no compute capability",
        ),
        ((1, 16, 16, 3), {"implementation": "popcount"}, "it runs on cuda, not on cpu"),
        (
            (1, 16, 16, 3),
            {"compute_capability": 70},
            "capability 70 has no kernels",
        ),
    ],
)
def test_what_cannot_be_prepared_says_why(
    params, shape: Any, options: dict[str, Any], said: str
) -> None:
    device = jax.config.jax_default_device
    with pytest.raises(InputError, match=said):
        prepare(params, shape, **options)
    assert jax.config.jax_default_device is device


def test_other_images_are_refused(segment) -> None:
    for images in (random_images(1, *SIZE), random_images(2, *SIZE).astype(jnp.float32)):
        with pytest.raises(InputError, match=r"the network was prepared for uint8\[2, 19, 33, 3\]"):
            segment(images)


def test_the_platform_is_that_of_the_default_device(monkeypatch: pytest.MonkeyPatch) -> None:
    (cpu, *_), here = jax.devices("cpu"), jax.devices
    gpu = SimpleNamespace(platform="gpu", client=SimpleNamespace(platform_version="cuda 13"))
    monkeypatch.setattr(jax, "devices", lambda name=None: here(name) if name else [gpu])
    for chosen, platform in ((None, "cuda"), (cpu, "cpu"), ("cpu", "cpu")):
        with jax.default_device(chosen):
            assert default_platform() == platform
