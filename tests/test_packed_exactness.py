"""Every output bit of the packed operations against integers in NumPy."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import Array
from numpy.typing import NDArray

from mbu_jax import ops
from mbu_jax.inference import infer_with_activations, pack
from mbu_jax.layers import QuantizationOptions
from mbu_jax.packing import PackedConv, PackedUNet
from mbu_jax.unet import UNetConfig
from tests.oracles import convolution, packed_network
from tests.random_packed import random_packed
from tests.unet_models import QUICKLY, oracle_of, random_images, random_model

INT_MAX = 2**31 - 1
DRAWS = 3  # on which every program runs, since compiling is the cost of these tests
ENGINES = ("xla", "bitsliced")
PRECISIONS = ("binary", "masked", "pow2")
LEVELS = {"binary": (1,), "masked": (1,), "pow2": (1, 2, 4)}


class Case(NamedTuple):
    """A layer and its input are drawn from these by NumPy."""

    precision: str
    bits: int
    segments: tuple[int, ...]
    outputs: int
    size: tuple[int, int, int]
    density: float = 0.3
    seed: int = 0


channels = st.sampled_from([1, 31, 32, 33, 64, 65, 127, 128, 130]) | st.integers(1, 130)
sides = st.integers(1, 7)
cases = st.builds(
    Case,
    precision=st.sampled_from(PRECISIONS),
    bits=st.sampled_from([1, 2]),
    segments=st.lists(channels, min_size=1, max_size=2).map(tuple),
    outputs=channels,
    size=st.tuples(st.integers(1, 2), sides, sides),
    density=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)


def random_weights(case: Case, side: int, rng: np.random.Generator) -> NDArray:
    shape = (side, side, sum(case.segments), case.outputs)
    kept = 1 if case.precision == "binary" else rng.random(shape) < case.density
    return rng.choice([-1, 1], shape) * rng.choice(LEVELS[case.precision], shape) * kept


def random_codes(case: Case, rng: np.random.Generator) -> NDArray:
    return rng.integers(0, 2**case.bits, (*case.size, sum(case.segments)))


def joined_words(codes: NDArray, segments: tuple[int, ...], bits: int) -> NDArray:
    parts = np.split(codes, np.cumsum(segments)[:-1], axis=-1)
    return np.concatenate([packed_network.write_codes(part, bits) for part in parts], axis=-1)


def packed_layer(w: NDArray, theta: NDArray, case: Case) -> PackedConv:
    def plane(bits: NDArray) -> Array:
        words = joined_words(bits.swapaxes(2, 3).astype(np.int64), case.segments, bits=1)
        return jnp.asarray(words[..., 0, :])

    exponents = jnp.stack([plane(np.abs(w) == level) for level in (2, 4)])
    return PackedConv(
        positive=plane(w > 0),
        negative=None if case.precision == "binary" else plane(w < 0),
        exponent=exponents if case.precision == "pow2" else None,
        theta=jnp.asarray(theta, jnp.int32),
        segments=case.segments,
    ).validate()


def edge_thresholds(y: NDArray, levels: int, rng: np.random.Generator) -> NDArray:
    """[T, K] thresholds at sums that occur, one beside them, and at both ends of int32."""
    sums = y.reshape(-1, y.shape[-1])
    outputs = sums.shape[1]
    attained = sums[rng.integers(0, len(sums), (levels, outputs)), np.arange(outputs)]
    kinds = [
        attained,
        attained + 1,
        attained - 1,
        np.full_like(attained, INT_MAX),
        np.full_like(attained, -INT_MAX),
        np.broadcast_to(sums.min(axis=0), attained.shape),
        np.broadcast_to(sums.max(axis=0), attained.shape),
        np.broadcast_to(sums.max(axis=0) + 1, attained.shape),
        np.full_like(attained, INT_MAX - 1),
        np.full_like(attained, 1 - INT_MAX),
    ]
    frequency = np.array([6, 3, 3, 1, 1, 1, 1, 1, 1, 1])
    kind = rng.choice(len(kinds), attained.shape, p=frequency / frequency.sum())
    return np.sort(np.choose(kind, kinds), axis=0)


def random_layer(
    case: Case, oracle: Callable[..., NDArray], side: int, seed: int
) -> tuple[NDArray, PackedConv]:
    """Codes of an input and a layer whose thresholds lie at the sums that these codes give."""
    rng = np.random.default_rng([case.seed, seed])
    codes, w = random_codes(case, rng), random_weights(case, side, rng)
    y = oracle(packed_network.values(codes, case.bits), w)
    layer = packed_layer(w, edge_thresholds(y, 2**case.bits - 1, rng), case)
    np.testing.assert_array_equal(packed_network.weights(layer), w)
    return codes, layer


def check_convolution(
    op: Callable[..., Array], oracle: Callable[..., NDArray], side: int, case: Case, engine: str
) -> None:
    compiled = None
    for seed in range(DRAWS):
        codes, layer = random_layer(case, oracle, side, seed)
        x = jnp.asarray(joined_words(codes, case.segments, case.bits))
        if compiled is None:
            lowered = jax.jit(partial(op, implementation=engine)).lower(x, layer)
            compiled = lowered.compile(compiler_options=QUICKLY)
        got = compiled(x, layer)
        expected = packed_network.write_codes(packed_network.convolved(codes, layer), case.bits)
        assert got.dtype == jnp.uint32
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("engine", ENGINES)
@settings(deadline=None, max_examples=7)
@given(case=cases)
@example(case=Case("pow2", 2, (130, 33), 130, (2, 7, 5), density=1.0))
@example(case=Case("masked", 2, (64, 64), 33, (1, 1, 1)))
@example(case=Case("binary", 1, (1,), 1, (1, 1, 7)))
@example(case=Case("binary", 2, (31, 32), 65, (1, 5, 1)))
def test_conv3x3_gives_every_bit(engine: str, case: Case) -> None:
    def oracle(x: NDArray, w: NDArray) -> NDArray:
        return convolution.conv3x3(x, w, padding=-(2**case.bits - 1))

    check_convolution(ops.conv3x3, oracle, 3, case, engine)


@pytest.mark.parametrize("engine", ENGINES)
@settings(deadline=None, max_examples=7)
@given(case=cases)
@example(case=Case("pow2", 2, (130,), 130, (2, 7, 5), density=1.0))
@example(case=Case("masked", 1, (33,), 31, (1, 1, 1)))
@example(case=Case("binary", 2, (64,), 64, (1, 3, 1)))
def test_up_conv2x2_gives_every_bit(engine: str, case: Case) -> None:
    check_convolution(ops.up_conv2x2, convolution.up_conv2x2, 2, case, engine)


@settings(deadline=None, max_examples=15)
@given(case=cases)
def test_max_pool2x2_gives_every_bit(case: Case) -> None:
    batch, height, width = case.size
    case = case._replace(size=(batch, 2 * height, 2 * width))
    codes = random_codes(case, np.random.default_rng(case.seed))
    expected = joined_words(convolution.max_pool2x2(codes), case.segments, case.bits)
    got = ops.max_pool2x2(jnp.asarray(joined_words(codes, case.segments, case.bits)))
    assert got.dtype == jnp.uint32
    np.testing.assert_array_equal(got, expected)


@settings(deadline=None, max_examples=15)
@given(case=cases)
def test_pack_bits_gives_every_bit(case: Case) -> None:
    codes = random_codes(case, np.random.default_rng(case.seed))
    got = ops.pack_bits(jnp.asarray(codes, jnp.uint8), case.bits)
    assert got.dtype == jnp.uint32
    np.testing.assert_array_equal(got, packed_network.write_codes(codes, case.bits))


def compiled_network(params: PackedUNet, images: NDArray, engine: str) -> Callable[..., Any]:
    run = jax.jit(partial(infer_with_activations, implementation=engine))
    lowered = run.lower(params, jnp.asarray(images))
    return lowered.compile(compiler_options=QUICKLY)


def check_words(kept: dict[str, Array], codes: dict[str, NDArray], bits: int) -> None:
    assert codes.keys() == kept.keys()
    for part, expected in codes.items():
        words = packed_network.write_codes(expected, bits)
        np.testing.assert_array_equal(kept[part], words, err_msg=part)


def check_network(
    params: PackedUNet, compiled: Callable[..., Any], images: NDArray
) -> dict[str, NDArray]:
    logits, kept = compiled(params, jnp.asarray(images))
    codes, expected = packed_network.network(params, images)
    check_words(kept, codes, params.activation_bits)
    _, height, width, _ = images.shape
    np.testing.assert_array_equal(logits, expected[:, :height, :width])
    return codes


@pytest.mark.parametrize("engine", ENGINES)
def test_a_whole_network_gives_every_bit(engine: str) -> None:
    """Batch normalizations flip, silence and saturate channels; see `random_model`."""
    config = UNetConfig(width=5, classes=2, precisions=("binary", "masked", "pow2") * 4)
    bits = config.quantization.activation_bits
    model = random_model(config, seed=3)
    params = pack(model)
    gammas = np.asarray(model.down_c1.norm1.norm.scale)
    assert (gammas < 0).any()
    exact = random_images(config, 1, 17, 31, seed=3)
    compiled = compiled_network(params, exact, engine)

    oracle = oracle_of(model)
    logits, kept = compiled(params, jnp.asarray(exact))
    np.testing.assert_array_equal(logits, oracle(exact))
    codes = {
        part.replace(".norm", ".conv"): (value + 2**bits - 1) // 2
        for part, value in oracle.seen.items()
        if ".norm" in part
    }
    check_words(kept, codes, bits)

    inexact = np.random.default_rng(3).random(exact.shape, np.float32)
    for images in (exact, inexact):
        check_network(params, compiled, images)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("width", "precisions", "bits", "size"),
    [
        (32, ("masked",) * 12, 2, (17, 21)),
        (64, ("pow2", "binary", "masked") * 4, 2, (3, 5)),
        (64, ("binary",) * 12, 1, (16, 1)),
    ],
)
def test_a_wide_network_gives_every_bit(
    width: int, precisions: tuple[Any, ...], bits: int, size: tuple[int, int], engine: str
) -> None:
    options = QuantizationOptions(activation_bits=bits)
    params = random_packed(UNetConfig(width, 3, 2, precisions, options))
    images = np.random.default_rng(width).random((1, *size, 3), np.float32)
    compiled = compiled_network(params, images, engine)
    codes = check_network(params, compiled, images)
    for part, values in codes.items():
        shares = np.bincount(values.ravel(), minlength=2**bits) / values.size
        assert shares.min() > 1e-3, f"{part} lacks a level and shows little"
