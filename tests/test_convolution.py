"""The linear maps and their gradients against NumPy loops: bit for bit on whole numbers."""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from mbu_jax.convolution import (
    _by_patches,
    conv1x1,
    conv3x3,
    exact_conv3x3,
    max_pool2x2,
    up_conv2x2,
)
from tests.oracles import convolution as oracle

# (B, H, W, C, K): smaller than the kernel, one row, one column, odd, prime.
SHAPES = [(1, 1, 1, 1, 1), (2, 1, 7, 3, 2), (1, 7, 1, 2, 3), (2, 5, 3, 5, 4), (1, 13, 11, 3, 5)]
# Blocks of the weight gradient: one row of a prime height, 13 blocks of two, two of sixteen, all.
BLOCKED = [(2, 13, 100, 2, 3), (1, 26, 500, 2, 3), (1, 32, 64, 3, 2), (3, 7, 5, 4, 3)]


def integers(rng: np.random.Generator, largest: int, *shape: int) -> NDArray:
    return rng.integers(-largest, largest + 1, shape).astype(np.float32)


def map_and_gradients(linear: Callable[..., Array]) -> Callable[..., tuple[Array, Array, Array]]:
    """Compiled (x, w, dy) -> y, dx, dw."""

    @jax.jit
    def run(x: Array, w: Array, dy: Array) -> tuple[Array, Array, Array]:
        y, backward = jax.vjp(linear, x, w)
        return y, *backward(dy)

    return run


@cache
def compiled_conv3x3(padding: float) -> Callable[..., tuple[Array, Array, Array]]:
    return map_and_gradients(lambda x, w: conv3x3(x, w, padding))


@pytest.mark.parametrize("padding", [-1.0, 0.0, -3.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_conv3x3_is_exact(shape: tuple[int, ...], padding: float) -> None:
    b, h, w, c, k = shape
    rng = np.random.default_rng(0)
    x, weight = integers(rng, 3, b, h, w, c), integers(rng, 127, 3, 3, c, k)
    dy = integers(rng, 9, b, h, w, k)
    y, dx, dw = compiled_conv3x3(padding)(x, weight, dy)
    assert y.dtype == dx.dtype == dw.dtype == jnp.float32
    np.testing.assert_array_equal(y, oracle.conv3x3(x, weight, padding))
    np.testing.assert_array_equal(dx, oracle.conv3x3_input_gradient(weight, dy))
    np.testing.assert_array_equal(dw, oracle.conv3x3_weight_gradient(x, dy, padding))


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_near_two_to_the_24_are_exact_by_either_way(shape: tuple[int, ...]) -> None:
    b, h, width, c, k = shape
    rng = np.random.default_rng(sum(shape))
    levels = (2 * rng.integers(0, 256, (b, h, width, c)) - 255).astype(np.float32)
    levels[rng.random(levels.shape) < 0.5] = 255
    w = integers(rng, 65000 // (9 * c), 3, 3, c, k)
    w[..., 0] = 65000 // (9 * c)
    expected = oracle.conv3x3(levels.astype(np.float64), w.astype(np.float64), 0.0)
    assert np.abs(expected).max() < 2**24
    for way in (exact_conv3x3, _by_patches):
        y = jax.jit(way)(jnp.asarray(levels), jnp.asarray(w * np.float32(2.0**-20)))
        np.testing.assert_array_equal(np.asarray(y) * np.float32(2.0**20), expected)


def test_conv3x3_at_every_pixel_by_hand() -> None:
    """The oracle itself, one multiplication after another."""
    rng = np.random.default_rng(1)
    x, w = integers(rng, 3, 1, 4, 3, 2), integers(rng, 3, 3, 3, 2, 2)
    expected = np.zeros((1, 4, 3, 2))
    for h, column, k in np.ndindex(4, 3, 2):
        for i, j, c in np.ndindex(3, 3, 2):
            row, other = h + i - 1, column + j - 1
            inside = 0 <= row < 4 and 0 <= other < 3
            expected[0, h, column, k] += (x[0, row, other, c] if inside else -3) * w[i, j, c, k]
    np.testing.assert_array_equal(oracle.conv3x3(x, w, -3), expected)
    np.testing.assert_array_equal(conv3x3(jnp.asarray(x), jnp.asarray(w), -3.0), expected)


@pytest.mark.parametrize("shape", BLOCKED)
def test_blocked_weight_gradient_equals_the_native_one(shape: tuple[int, ...]) -> None:
    b, h, w, c, k = shape
    rng = np.random.default_rng(2)
    x, weight = integers(rng, 3, b, h, w, c), integers(rng, 1, 3, 3, c, k)
    dy = integers(rng, 9, b, h, w, k)

    def native(x: Array, w: Array) -> Array:
        border = ((0, 0), (1, 1), (1, 1), (0, 0))
        x = jnp.pad(x, border, constant_values=-1.0)
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=layout)

    ours = compiled_conv3x3(-1.0)(x, weight, dy)
    for got, expected in zip(ours, map_and_gradients(native)(x, weight, dy), strict=True):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(ours[2], oracle.conv3x3_weight_gradient(x, dy, -1))


@pytest.mark.parametrize("shape", [BLOCKED[0], BLOCKED[2]])
def test_gradients_of_real_numbers(shape: tuple[int, ...]) -> None:
    b, h, w, c, k = shape
    rng = np.random.default_rng(3)
    x, weight, dy = (
        rng.normal(size=s).astype(np.float32) for s in ((b, h, w, c), (3, 3, c, k), (b, h, w, k))
    )
    y, dx, dw = compiled_conv3x3(0.0)(x, weight, dy)
    np.testing.assert_allclose(y, oracle.conv3x3(x, weight, 0), rtol=1e-5, atol=1e-5)
    expected = oracle.conv3x3_input_gradient(weight, dy)
    np.testing.assert_allclose(dx, expected, rtol=1e-5, atol=1e-5)
    expected = oracle.conv3x3_weight_gradient(x, dy, 0)
    # Thousands of random terms: rounding grows with their number, not with their sum.
    np.testing.assert_allclose(dw, expected, rtol=1e-5, atol=1e-6 * b * h * w)


@pytest.mark.parametrize("shape", SHAPES)
def test_conv1x1_is_exact(shape: tuple[int, ...]) -> None:
    b, h, w, c, k = shape
    rng = np.random.default_rng(4)
    x, weight = integers(rng, 9, b, h, w, c), integers(rng, 9, c, k)
    dy = integers(rng, 9, b, h, w, k)
    y, dx, dw = map_and_gradients(conv1x1)(x, weight, dy)
    np.testing.assert_array_equal(y, np.einsum("bhwc,ck->bhwk", x, weight))
    np.testing.assert_array_equal(dx, np.einsum("bhwk,ck->bhwc", dy, weight))
    np.testing.assert_array_equal(dw, np.einsum("bhwc,bhwk->ck", x, dy))


@pytest.mark.parametrize("shape", SHAPES)
def test_up_conv2x2_is_exact(shape: tuple[int, ...]) -> None:
    b, h, w, c, k = shape
    rng = np.random.default_rng(5)
    x, weight = integers(rng, 3, b, h, w, c), integers(rng, 127, 2, 2, c, k)
    dy = integers(rng, 9, b, 2 * h, 2 * w, k)
    y, dx, dw = map_and_gradients(up_conv2x2)(x, weight, dy)
    expected_dx, expected_dw = oracle.up_conv2x2_gradients(x, weight, dy)
    np.testing.assert_array_equal(y, oracle.up_conv2x2(x, weight))
    np.testing.assert_array_equal(dx, expected_dx)
    np.testing.assert_array_equal(dw, expected_dw)


@pytest.mark.parametrize("shape", [(1, 2, 2, 1), (2, 2, 6, 3), (1, 10, 4, 2)])
def test_max_pool_is_exact_and_the_or_of_bits(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(6)
    for x in (integers(rng, 4, *shape), rng.choice(np.array([-1, 1], np.float32), shape)):
        y = jax.jit(max_pool2x2)(x)
        np.testing.assert_array_equal(y, oracle.max_pool2x2(x))
    bits = np.asarray(x) > 0
    either = bits[:, ::2, ::2] | bits[:, 1::2, ::2] | bits[:, ::2, 1::2] | bits[:, 1::2, 1::2]
    np.testing.assert_array_equal(np.asarray(y) > 0, either)


def test_max_pool_shares_its_gradient_among_equal_maxima() -> None:
    x = np.array([[1, 1, -1, 1], [-1, 1, -1, -1], [3, 1, -1, -1], [1, 2, -1, -1]], np.float32)
    dy = np.array([[12, 5], [7, 8]], np.float32)
    dx = jax.vjp(max_pool2x2, jnp.asarray(x).reshape(1, 4, 4, 1))[1](dy.reshape(1, 2, 2, 1))[0]
    expected = [[4, 4, 0, 5], [0, 4, 0, 0], [7, 0, 2, 2], [0, 0, 2, 2]]
    np.testing.assert_array_equal(dx[0, :, :, 0], expected)


def test_vmap_over_inputs_and_weights() -> None:
    rng = np.random.default_rng(7)
    x, w = integers(rng, 3, 3, 2, 5, 3, 2), integers(rng, 3, 3, 3, 3, 2, 4)
    dy = integers(rng, 9, 3, 2, 5, 3, 4)
    y, dx, dw = jax.jit(jax.vmap(compiled_conv3x3(-1.0)))(x, w, dy)
    for n in range(3):
        np.testing.assert_array_equal(y[n], oracle.conv3x3(x[n], w[n], -1))
        np.testing.assert_array_equal(dx[n], oracle.conv3x3_input_gradient(w[n], dy[n]))
        np.testing.assert_array_equal(dw[n], oracle.conv3x3_weight_gradient(x[n], dy[n], -1))
    pooled = jax.vmap(max_pool2x2)(jnp.asarray(dy[:, :, :4, :2]))
    np.testing.assert_array_equal(pooled, [oracle.max_pool2x2(v) for v in dy[:, :, :4, :2]])


def test_a_split_batch_is_summed_once_after_the_loop() -> None:
    rng = np.random.default_rng(9)
    x, w = integers(rng, 3, 4, 64, 32, 2), integers(rng, 3, 3, 3, 2, 3)
    dy = integers(rng, 9, 4, 64, 32, 3)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    program = jax.jit(
        lambda x, w, dy: jax.vjp(lambda w: conv3x3(x, w, -1.0), w)[1](dy)[0],
        in_shardings=(split, whole, split),
        out_shardings=whole,
    )
    compiled = program.lower(x, w, dy).compile()
    text = compiled.as_text()
    assert text is not None
    assert " while(" in text, "two blocks a device make a loop"
    computations = text.split("\n\n")
    sums = [c for c in computations if " all-reduce(" in c or " all-reduce-start(" in c]
    assert [c.lstrip().startswith("ENTRY") for c in sums] == [True]
    assert sums[0].count(" all-reduce(") == 1
    assert "all-gather" not in text
    arguments = jax.device_put((x, w, dy), (split, whole, split))
    expected = oracle.conv3x3_weight_gradient(x, dy, -1)
    np.testing.assert_array_equal(compiled(*arguments), expected)


def test_bfloat16_keeps_its_dtype_and_sums_gradients_in_float32() -> None:
    rng = np.random.default_rng(8)
    x, w = integers(rng, 1, 1, 26, 500, 2), integers(rng, 1, 3, 3, 2, 3)
    dy = rng.integers(1, 10, (1, 26, 500, 3)).astype(np.float32)
    half = [jnp.asarray(v).astype(jnp.bfloat16) for v in (x, w, dy)]
    y, dx, dw = compiled_conv3x3(-1.0)(*half)
    assert y.dtype == dx.dtype == dw.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(y, np.float32), oracle.conv3x3(x, w, -1))
    expected = oracle.conv3x3_input_gradient(w, dy)
    np.testing.assert_array_equal(np.asarray(dx, np.float32), expected)
    # Rounded once, at the end: summed in bfloat16 the thousands of terms would be far off.
    expected = oracle.conv3x3_weight_gradient(x, dy, -1).astype(np.float32)
    assert np.abs(expected).max() > 2**8
    np.testing.assert_array_equal(dw, jnp.asarray(expected).astype(jnp.bfloat16))
    for linear in (conv1x1, up_conv2x2):
        weight = jnp.ones((2, 3) if linear is conv1x1 else (2, 2, 2, 3), jnp.bfloat16)
        assert linear(half[0], weight).dtype == jnp.bfloat16
    assert max_pool2x2(half[0]).dtype == jnp.bfloat16
