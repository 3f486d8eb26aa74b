"""The `bitsliced` engine against the references and against integers in NumPy."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import Array
from numpy.typing import NDArray

from mbu_jax import ops
from mbu_jax.ops.bitsliced import pixels
from mbu_jax.ops.conv3x3 import arg_specs as conv_specs
from mbu_jax.ops.conv3x3.reference import conv3x3_reference
from mbu_jax.ops.head.reference import head_reference
from mbu_jax.ops.max_pool2x2.reference import max_pool2x2_reference
from mbu_jax.ops.up_conv2x2 import arg_specs as up_specs
from mbu_jax.ops.up_conv2x2.reference import up_conv2x2_reference
from mbu_jax.packing import PackedConv, PackedHead, channels_to_pixels, pixels_to_channels
from tests.ops.cases import ConvCases
from tests.oracles import convolution, packed_network
from tests.test_packed_exactness import Case, edge_thresholds, packed_layer, random_weights


class TestConv3x3(ConvCases):
    operation = ops.conv3x3
    reference = conv3x3_reference
    implementation = "bitsliced"
    specs = conv_specs.ODD


class TestUpConv2x2(ConvCases):
    operation = ops.up_conv2x2
    reference = up_conv2x2_reference
    implementation = "bitsliced"
    specs = up_specs.ODD


def write_pixels(codes: NDArray, bits: int) -> NDArray:
    """[B, H, W, C] codes to [B, P, C, H, ceil(W/32)] words, unused bits 0."""
    planes = [(codes >> plane & 1).transpose(0, 3, 1, 2) for plane in range(bits)]
    whole = np.pad(np.stack(planes, axis=1), [(0, 0)] * 4 + [(0, -codes.shape[2] % 32)])
    packed = np.packbits(whole.astype(bool), axis=-1, bitorder="little")
    return np.ascontiguousarray(packed).view("<u4")


def convolve_pixels(codes: NDArray, layer: PackedConv) -> NDArray:
    """The engine's planes, each segment an array of its own."""
    bits = layer.activation_bits
    first, second = np.split(codes, layer.segments[:1], axis=-1)
    pair = tuple(jnp.asarray(write_pixels(part, bits)) for part in (first, second))
    return np.asarray(pixels.CONV(pair, layer, width=codes.shape[2]))


def check_convolution(case: Case, side: int, *, equal_thresholds: bool = False) -> None:
    rng = np.random.default_rng(case.seed)
    codes = rng.integers(0, 2**case.bits, (*case.size, sum(case.segments)))
    w = random_weights(case, side, rng)
    x = packed_network.values(codes, case.bits)
    if side == 3:
        y = convolution.conv3x3(x, w, padding=-(2**case.bits - 1))
    else:
        y = convolution.up_conv2x2(x, w)
    theta = edge_thresholds(y, 2**case.bits - 1, rng)
    if equal_thresholds:
        theta = np.broadcast_to(theta[:1], theta.shape)
    found = convolve_pixels(codes, packed_layer(w, theta, case))
    assert found.dtype == np.uint32
    expected = write_pixels(packed_network.compared(y, theta), case.bits)
    np.testing.assert_array_equal(found, expected)


channels = st.sampled_from([1, 31, 32, 33, 63, 65]) | st.integers(1, 70)
cases = st.builds(
    Case,
    precision=st.sampled_from(["binary", "masked", "pow2"]),
    bits=st.sampled_from([1, 2]),
    segments=st.lists(channels, min_size=1, max_size=2).map(tuple),
    outputs=st.integers(1, 40),
    size=st.tuples(
        st.integers(1, 3),
        st.integers(1, 20),
        st.sampled_from([1, 31, 32, 33, 64, 65, 255, 256, 257]) | st.integers(1, 300),
    ),
    density=st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)


@settings(deadline=None, max_examples=12)
@given(case=cases, side=st.sampled_from([2, 3]), equal_thresholds=st.booleans())
@example(Case("binary", 1, (1,), 1, (1, 1, 1)), 3, False)
@example(Case("masked", 2, (33, 1), 5, (2, 3, 40), density=0.0), 3, True)
@example(Case("pow2", 2, (9,), 3, (3, 2, 33), density=1.0), 2, True)
def test_planes_of_pixels_are_the_integers(case: Case, side: int, equal_thresholds: bool) -> None:
    check_convolution(case, side, equal_thresholds=equal_thresholds)


@pytest.mark.parametrize(
    ("case", "side"),
    [
        (Case("masked", 1, (900, 300), 33, (1, 3, 70), density=0.03), 3),
        (Case("binary", 1, (700,), 2, (2, 2, 767)), 3),
        (Case("pow2", 2, (5,), 3, (1, 3, 5000)), 3),
        (Case("masked", 2, (1, 2), 2, (1, 500, 3)), 3),
        (Case("masked", 2, (2500,), 2, (1, 2, 33), density=0.1), 2),
        (Case("binary", 1, (3500,), 3, (1, 2, 80)), 2),
        (Case("binary", 2, (3,), 2, (1, 2, 4001)), 2),
        (Case("masked", 1, (40,), 130, (1, 2, 17)), 2),
    ],
)
def test_rows_longer_than_a_tile_and_outputs_in_parts(case: Case, side: int) -> None:
    check_convolution(case, side)


@pytest.mark.parametrize("side", [2, 3])
def test_every_reachable_threshold_is_exact(side: int) -> None:
    """Few inputs, so that thresholds of all integers around the sums are walked."""
    taps = 9 if side == 3 else 1
    for precision, largest in (("binary", 1), ("masked", 1), ("pow2", 4)):
        for bits in (1, 2):
            most = taps * 2 * largest * (2**bits - 1)
            every = np.arange(-most - 2, most + 3)
            outputs = len(every)
            case = Case(precision, bits, (2,), outputs, (1, 6, 6), density=0.8, seed=bits)
            rng = np.random.default_rng(side)
            codes = rng.integers(0, 2**bits, (*case.size, 2))
            codes[:, :3] = rng.choice([0, 2**bits - 1], codes[:, :3].shape)
            w = random_weights(case, side, rng)
            theta = np.sort(every[None] + rng.integers(0, 3, (2**bits - 1, outputs)), axis=0)
            layer = packed_layer(w, theta, case)
            expected = write_pixels(packed_network.convolved(codes, layer), bits)
            np.testing.assert_array_equal(convolve_pixels(codes, layer), expected)


@settings(deadline=None, max_examples=12)
@given(
    size=st.tuples(
        st.integers(1, 3), st.integers(1, 5), st.integers(1, 80) | st.sampled_from([16, 32, 1000])
    ),
    bits=st.sampled_from([1, 2]),
    channels=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
@example(size=(1, 1, 1), bits=2, channels=1, seed=0)
def test_pooled_planes_are_the_integers(
    size: tuple[int, int, int], bits: int, channels: int, seed: int
) -> None:
    batch, height, width = size
    shape = (batch, 2 * height, 2 * width, channels)
    codes = np.random.default_rng(seed).integers(0, 2**bits, shape)
    found = pixels.MAX_POOL2X2(jnp.asarray(write_pixels(codes, bits)), None, width=2 * width)
    np.testing.assert_array_equal(found, write_pixels(convolution.max_pool2x2(codes), bits))


@pytest.mark.parametrize("bits", [1, 2])
def test_pooled_planes_are_the_references(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, (2, 6, 70, 33))
    words = jnp.asarray(packed_network.write_codes(codes, bits))

    @jax.jit
    def pooled(words: Array) -> Array:
        planes = pixels.MAX_POOL2X2(channels_to_pixels(words, 33), None, width=70)
        return pixels_to_channels(planes, 35)

    np.testing.assert_array_equal(pooled(words), jax.jit(max_pool2x2_reference)(words))


def random_head(channels: int, classes: int, bits: int, rng: np.random.Generator) -> PackedHead:
    return PackedHead(
        jnp.asarray(rng.integers(-999, 999, (channels, classes)) / 256, jnp.float32),
        jnp.asarray(rng.integers(-999, 999, classes) / 256, jnp.float32),
    ).validate(bits=bits)


@settings(deadline=None, max_examples=10)
@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 130)),
    bits=st.sampled_from([1, 2]),
    channels=st.integers(1, 70),
    classes=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
@example(size=(1, 1, 1), bits=1, channels=1, classes=1, seed=0)
@example(size=(1, 2, 2000), bits=2, channels=3, classes=1, seed=0)
def test_logits_of_planes_are_the_exact_sums(
    size: tuple[int, int, int], bits: int, channels: int, classes: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**bits, (*size, channels))
    layer = random_head(channels, classes, bits, rng)
    found = pixels.HEAD(jnp.asarray(write_pixels(codes, bits)), layer, width=size[2])
    weight, bias = np.asarray(layer.weight, np.float64), np.asarray(layer.bias, np.float64)
    np.testing.assert_array_equal(found, packed_network.values(codes, bits) @ weight + bias)


@pytest.mark.parametrize(("channels", "bits"), [(4, 1), (40, 2)])
def test_logits_of_words_are_the_references(channels: int, bits: int) -> None:
    rng = np.random.default_rng(channels)
    codes = rng.integers(0, 2**bits, (2, 3, 37, channels))
    layer = random_head(channels, 3, bits, rng)
    words = jnp.asarray(packed_network.write_codes(codes, bits))
    found = ops.head(words, layer, implementation="bitsliced")
    np.testing.assert_array_equal(found, jax.jit(head_reference)(words, layer))
    run = jax.vmap(partial(ops.head, implementation="bitsliced"), in_axes=(1, None))
    rows = jax.jit(run)(words[:, :, None], layer)
    np.testing.assert_array_equal(rows[:, :, 0], np.asarray(found).swapaxes(0, 1))


def test_mapped_planes_are_a_larger_batch_and_shared_ones_are_repeated() -> None:
    """Of two segments one alone may be mapped."""
    _, layer = conv_specs.ODD[1].arguments(seed=5)
    codes = np.random.default_rng(5).integers(0, 2, (2, 5, 7, 56))
    assert layer.segments == (16, 40)
    turned = np.concatenate([codes[::-1, :, :, :16], codes[..., 16:]], axis=-1)
    first, second = (write_pixels(part, 1) for part in np.split(codes, [16], axis=-1))
    run = jax.jit(jax.vmap(lambda a, b: pixels.CONV((a, b), layer, width=7), in_axes=(0, None)))
    found = run(np.stack([first, first[::-1]]), second)
    for one, planes in zip((codes, turned), found, strict=True):
        expected = packed_network.convolved(one, layer)
        np.testing.assert_array_equal(planes, write_pixels(expected, 1))


def test_a_layer_with_dense_and_silent_outputs_is_the_reference() -> None:
    """Outputs without a positive, a negative or any weight beside full ones."""
    x, layer = conv_specs.ODD[2].arguments(seed=6)
    positive, negative = np.array(layer.positive), np.array(layer.negative)
    kept = positive | negative
    positive[:, :, :20] = 0
    negative[:, :, 10:30] = 0
    positive[:, :, 30], negative[:, :, 30] = kept[:, :, 30], 0
    layer = dataclasses.replace(
        layer, positive=jnp.asarray(positive), negative=jnp.asarray(negative)
    ).validate()
    found = ops.conv3x3(x, layer, implementation="bitsliced")
    np.testing.assert_array_equal(found, jax.jit(conv3x3_reference)(x, layer))
