"""Quantizers and their straight-through gradients against NumPy and autodiff of surrogates.

Subnormal inputs are left out: devices, the CPU among them, take them for zero.
"""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax import Array
from numpy.typing import NDArray

from mbu_jax.errors import InputError
from mbu_jax.quantizers import (
    binarize,
    power_of_two,
    quantize_activation,
    ste_derivative,
    symmetric,
    ternarize,
    ternary_threshold,
    trained_ternary,
)
from tests.oracles import levels

type Surrogate = Callable[[Array], Array]


def f32(*values: float) -> NDArray:
    return np.array(values, np.float32)


TIES = f32(0.125, 0.25, 0.375, 0.5, 0.75, 1, 1.5, 2, 3, 5)
BESIDE = np.concatenate([np.nextafter(TIES, f32(0)), np.nextafter(TIES, f32(9))])
EXTREME = f32(0, 4 * float(np.finfo(np.float32).tiny), 1e-6, 100, 1e30, 3e38, np.inf)
EDGES = np.concatenate([EXTREME, TIES, BESIDE, -EXTREME, -TIES, -BESIDE])

near_one = st.floats(-1.25, 1.25, width=32, allow_subnormal=False)
anywhere = st.floats(-4, 4, width=32, allow_subnormal=False)
some_floats = hnp.arrays(np.float32, 40, elements=(near_one | anywhere).filter(
    lambda value: value == 0 or abs(value) > 1e-30
))  # fmt: skip
latent_weights = hnp.arrays(
    np.float32,
    40,
    elements=st.floats(-1, 1, width=32, allow_subnormal=False)
    | st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A quantizer, what it must give, and how its surrogate stretches the sign's.

    The surrogate is ``height * F(x / reach)``, F being the antiderivative of the sign's gradient.
    """

    quantizer: Callable[..., Array]
    oracle: Callable[[NDArray], NDArray]
    levels: tuple[int, ...]
    height: float = 1
    reach: float = 1
    unit: float = 1  # a level times this is quantized to the same level


def symmetric_case(bits: int) -> Case:
    n = 2 ** (bits - 1) - 1
    return Case(
        partial(symmetric, bits=bits),
        partial(levels.uniform, bits=bits),
        tuple(range(-n, n + 1)),
        height=n,
        unit=1 / n,
    )


CASES = {
    "binary": Case(binarize, levels.sign, (-1, 1)),
    "masked": Case(ternarize, partial(levels.uniform, bits=2), (-1, 0, 1)),
    **{f"symmetric{bits}": symmetric_case(bits) for bits in range(2, 9)},
    "pow2": Case(power_of_two, levels.power_of_two, (-4, -2, -1, 0, 1, 2, 4), height=4, unit=0.25),
    "activation1": Case(partial(quantize_activation, bits=1), levels.sign, (-1, 1)),
    "activation2": Case(
        partial(quantize_activation, bits=2), levels.two_bits, (-3, -1, 1, 3), height=3, reach=3
    ),
}
# Three of the seven widths: their gradients differ by a factor alone.
WITH_GRADIENT = [name for name in CASES if name not in {f"symmetric{b}" for b in (3, 5, 6, 7)}]


def clipped_identity(x: Array) -> Array:
    # Not jnp.clip: at the edges its derivative is a half, and the rule is a closed interval.
    return jnp.where(jnp.abs(x) <= 1, x, jnp.sign(x))


def approx_sign(x: Array) -> Array:
    inner = jnp.where(jnp.abs(x) < 1, x, 0)
    return jnp.where(jnp.abs(x) < 1, 2 * inner - inner * jnp.abs(inner), jnp.sign(x))


def sign_swish(x: Array) -> Array:
    inner = jnp.where(jnp.abs(x) < 30, x, 0)
    bx = 5 * inner
    value = 2 * jax.nn.sigmoid(bx) * (1 + bx * (1 - jax.nn.sigmoid(bx))) - 1
    return jnp.where(jnp.abs(x) < 30, value, jnp.sign(x))


SURROGATES: dict[str, Surrogate] = {
    "clipped": clipped_identity,
    "approx_sign": approx_sign,
    "swish_sign": sign_swish,
}


@cache
def compiled(name: str) -> Callable[..., Array]:
    return jax.jit(CASES[name].quantizer)


@cache
def compiled_gradient(name: str, gradient: str) -> Callable[..., Array]:
    quantizer = partial(CASES[name].quantizer, gradient=gradient)
    return jax.jit(lambda x, cotangent: jax.vjp(quantizer, x)[1](cotangent)[0])


@cache
def compiled_oracle_gradient(name: str, gradient: str) -> Callable[..., Array]:
    case, surrogate = CASES[name], SURROGATES[gradient]

    def oracle(x: Array, quantized: Array) -> Array:
        smooth = case.height * surrogate(x / case.reach)
        return smooth + jax.lax.stop_gradient(quantized - smooth)

    return jax.jit(lambda x, q, cotangent: jax.vjp(lambda x: oracle(x, q), x)[1](cotangent)[0])


def gradient_oracle(name: str, gradient: str, x: NDArray, cotangent: NDArray) -> NDArray:
    """``surrogate(x) + stop_gradient(q(x) - surrogate(x))``, differentiated in float64."""
    with jax.enable_x64(True):
        operands = (x, CASES[name].oracle(x), cotangent)
        operands = [np.asarray(value, np.float64) for value in operands]
        return np.asarray(compiled_oracle_gradient(name, gradient)(*operands))


@pytest.mark.parametrize("name", CASES)
@settings(deadline=None, max_examples=25)
@given(drawn=some_floats)
def test_forward_equals_the_oracle(name: str, drawn: NDArray) -> None:
    x = np.concatenate([EDGES, drawn])
    y = np.asarray(compiled(name)(x))
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, CASES[name].oracle(x))
    assert set(y.tolist()) <= set(CASES[name].levels)


@pytest.mark.parametrize("name", CASES)
def test_levels_are_fixed_points_and_all_reached(name: str) -> None:
    case = CASES[name]
    values = f32(*case.levels)
    np.testing.assert_array_equal(case.quantizer(values * np.float32(case.unit)), values)


def test_ties_by_hand() -> None:
    def values(name: str, *x: float) -> list[float]:
        return compiled(name)(f32(*x)).tolist()

    assert values("binary", 0.0, -0.0, -1e-9) == [1, 1, -1]
    assert values("masked", 0.5, -0.5, 1.0, -1.0) == [0, 0, 1, -1]
    assert values("symmetric3", 0.5, -0.5, 1 / 6) == [2, -2, 0]
    assert values("pow2", 0.125, 0.375, 0.75, -0.75, 0.76) == [0, 1, 2, -2, 4]
    assert values("activation2", -2.0, -0.0, 2.0, -2.5) == [-1, 1, 3, -3]


@pytest.mark.parametrize("gradient", SURROGATES)
@pytest.mark.parametrize("name", WITH_GRADIENT)
def test_gradient_equals_the_oracle(name: str, gradient: str) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([EDGES, rng.normal(size=200).astype(np.float32)])
    cotangent = rng.normal(size=x.shape).astype(np.float32)
    dx = np.asarray(compiled_gradient(name, gradient)(x, cotangent))
    expected = gradient_oracle(name, gradient, x, cotangent)
    assert dx.dtype == np.float32
    if gradient == "clipped":
        np.testing.assert_array_equal(dx, expected.astype(np.float32))
    else:
        scale = CASES[name].height * np.abs(cotangent)
        assert (np.abs(dx - expected) <= 1e-5 * np.abs(expected) + 1e-6 * scale).all()


@pytest.mark.parametrize("name", WITH_GRADIENT)
def test_gradient_at_the_clip_edges(name: str) -> None:
    """The interval is closed: its very edge still passes, the next float does not."""
    case = CASES[name]
    edge = f32(case.reach, -case.reach)
    x = np.concatenate([edge, np.nextafter(edge, f32(0)), np.nextafter(edge, 9 * edge)])
    ones = np.ones_like(x)
    slope = case.height / case.reach
    clipped = compiled_gradient(name, "clipped")(x, ones)
    np.testing.assert_array_equal(clipped, slope * f32(1, 1, 1, 1, 0, 0))
    approximate = np.asarray(compiled_gradient(name, "approx_sign")(x, ones))
    np.testing.assert_array_equal(approximate[[0, 1, 4, 5]], 0)
    assert (approximate[2:4] > 0).all()
    assert (np.asarray(compiled_gradient(name, "swish_sign")(x, ones)) < 0).all()


def test_swish_derivative_is_even_and_vanishes_far_out() -> None:
    """Against BNN+'s printed derivative, beta (2 - bx tanh(bx / 2)) / (1 + cosh(bx))."""
    x = f32(0, 1e-3, 0.3, 0.4799, 1, 2, 4, 10, 17)
    bx = 5 * x.astype(np.float64)
    expected = 5 * (2 - bx * np.tanh(bx / 2)) / (1 + np.cosh(bx))
    got = np.asarray(ste_derivative(jnp.asarray(x), "swish_sign"))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ste_derivative(jnp.asarray(-x), "swish_sign"), got)
    far = jnp.array([1e3, 1e38, 3.4e38, jnp.inf], jnp.float32)
    np.testing.assert_array_equal(ste_derivative(far, "swish_sign"), 0)
    np.testing.assert_array_equal(ste_derivative(-far, "swish_sign"), 0)


@settings(deadline=None, max_examples=40)
@given(x=latent_weights)
def test_twn_threshold(x: NDArray) -> None:
    x[0] = 0.75  # not all zero
    threshold = levels.twn_threshold(x)
    got = np.asarray(ternarize_by("twn", 0.1)(x))
    # The device sums in float32, so a weight on the threshold may fall either way.
    certain = np.abs(np.abs(x) - threshold) > 1e-5 * threshold
    expected = np.where(np.abs(x) > threshold, np.sign(x), 0)
    np.testing.assert_array_equal(got[certain], expected[certain])
    assert set(got.tolist()) <= {-1, 0, 1}


@cache
def ternarize_by(method: Any, density: float) -> Callable[..., Array]:
    return jax.jit(partial(ternarize, method=method, density=density))


@pytest.mark.parametrize("density", [0.001, 0.1, 0.5, 0.93, 1.0])
@settings(deadline=None, max_examples=20)
@given(x=latent_weights)
def test_density_keeps_the_largest_magnitudes_and_all_ties(density: float, x: NDArray) -> None:
    got = np.asarray(ternarize_by("density", density)(x))
    np.testing.assert_array_equal(got, levels.masked_by_density(x, density))
    assert np.count_nonzero(got) >= max(1, round(density * x.size))


def test_density_with_ties_at_the_clip_edge_and_at_zero() -> None:
    edge = f32(1, -1, 1, 0.3)
    np.testing.assert_array_equal(ternarize_by("density", 0.25)(edge), [1, -1, 1, 0])
    np.testing.assert_array_equal(ternarize_by("density", 0.25)(np.zeros(4, np.float32)), 1)
    zeros = f32(0, 0.5, 0, -0.25)
    np.testing.assert_array_equal(ternarize_by("density", 0.75)(zeros), [1, 1, 1, -1])


@pytest.mark.parametrize("method", ["fixed", "twn", "density", "max"])
def test_ternarizers_pass_the_gradient_to_zeros_and_none_to_the_threshold(method: Any) -> None:
    x = jnp.array([-1.5, -1, -0.6, -0.2, 0, 0.1, 0.9, 1, 1.01], jnp.float32)
    dx = jax.grad(lambda x: (ternarize(x, method) * jnp.arange(1.0, 10.0)).sum())(x)
    np.testing.assert_array_equal(dx, [0, 2, 3, 4, 5, 6, 7, 8, 0])


def test_ternary_threshold_values() -> None:
    x = jnp.array([[0.1, -0.2], [0.6, -0.9]], jnp.float32)
    assert ternary_threshold(x).tolist() == 0.5
    np.testing.assert_allclose(ternary_threshold(x, "twn"), 0.7 * 0.45, rtol=1e-6)
    np.testing.assert_allclose(ternary_threshold(x, "max"), 0.05 * 0.9, rtol=1e-6)
    half = ternary_threshold(x, "density", 0.5)
    assert 0.2 < half < 0.6
    assert half == np.nextafter(np.float32(0.6), np.float32(0))


_threshold = jax.jit(
    lambda x, share: ternary_threshold(x, "density", share), static_argnames=("share",)
)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@given(data=st.data())
@settings(deadline=None)
def test_the_density_threshold_keeps_the_largest_and_their_equals(
    dtype: Any, data: st.DataObject
) -> None:
    # A fixed size, so that one program serves all examples; few values, so that many are equal.
    values = st.one_of(
        st.sampled_from([0.0, -0.0, 0.5, -1.0, 1.0]),
        st.floats(-2, 2, width=16, allow_subnormal=False),
    )
    x = np.array(data.draw(st.lists(values, min_size=33, max_size=33))).astype(dtype)
    for share in (0.03, 0.3, 1.0):
        kept = max(1, round(share * x.size))
        magnitudes = np.abs(x.astype(np.float64))
        smallest = np.sort(magnitudes)[-kept]
        threshold = np.float64(_threshold(jnp.asarray(x), share))
        np.testing.assert_array_equal(magnitudes > threshold, magnitudes >= smallest)
        assert threshold < smallest


@pytest.mark.parametrize(("method", "limit"), [("max", 0.05 * 1.25), ("fixed", 0.5)])
def test_trained_ternary_follows_its_paper(method: Any, limit: float) -> None:
    """Zhu et al. 2017: levels of eq. 6, a scale's gradient of eq. 7, a latent weight's of eq. 8."""
    rng = np.random.default_rng(0)
    x = np.concatenate([f32(limit, -limit, 1, -1, 1.25, 0), rng.normal(size=300) / 3])
    x = x.astype(np.float32)
    scales, cotangent = f32(1.5, 0.25), rng.integers(-9, 10, x.size).astype(np.float32)
    edge = np.float32(limit)
    positive, negative = x > edge, x < -edge

    @jax.jit
    def both(x: Array, scales: Array, cotangent: Array) -> Any:
        y, backward = jax.vjp(lambda x, s: trained_ternary(x, s, method), x, scales)
        return y, backward(cotangent)

    y, (dx, dscales) = both(x, scales, cotangent)
    np.testing.assert_array_equal(y, 1.5 * positive - 0.25 * negative)
    factor = np.where(positive, 1.5, np.where(negative, 0.25, 1))
    np.testing.assert_array_equal(dx, np.where(np.abs(x) <= 1, cotangent * factor, 0))
    expected = [cotangent[positive].sum(), -cotangent[negative].sum()]
    np.testing.assert_array_equal(dscales, expected)


def test_scales_of_trained_ternary_have_the_slope_of_the_sum() -> None:
    """The gradient of the scales is no surrogate: differences of the function itself give it."""
    rng = np.random.default_rng(1)
    x, weights = (jnp.asarray(rng.normal(size=40), jnp.float32) for _ in range(2))

    def total(scales: Array) -> Array:
        return jnp.sum(weights * trained_ternary(x, scales, "density", 0.6))

    scales = jnp.array([1.0, 2.0])
    slope = [total(scales.at[i].add(0.5)) - total(scales.at[i].add(-0.5)) for i in range(2)]
    np.testing.assert_allclose(jax.grad(total)(scales), slope, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["binary", "masked", "symmetric4", "pow2", "activation2"])
def test_vmap_equals_rows(name: str) -> None:
    case = CASES[name]
    x = np.stack([EDGES, EDGES[::-1] / 2])
    mapped = jax.jit(jax.vmap(case.quantizer))(x)
    np.testing.assert_array_equal(mapped, [case.oracle(row) for row in x])
    gradients = jax.jit(jax.vmap(jax.grad(lambda x: case.quantizer(x).sum())))(x)
    np.testing.assert_array_equal(gradients, (np.abs(x) <= case.reach) * case.height / case.reach)


@pytest.mark.parametrize("method", ["twn", "density"])
def test_vmap_finds_a_threshold_for_each_row(method: str) -> None:
    x = np.stack([f32(0.1, 0.2, -0.3, 0.01), f32(-0.9, 0.8, 0.1, 0.2)])
    of_row = ternarize_by(method, 0.5)
    mapped = jax.vmap(of_row)(jnp.asarray(x))
    np.testing.assert_array_equal(mapped, np.stack([of_row(row) for row in x]))
    assert not np.array_equal(mapped, of_row(x))


@pytest.mark.parametrize("name", WITH_GRADIENT)
def test_bfloat16_is_preserved(name: str) -> None:
    case = CASES[name]
    x = jnp.asarray(EDGES).astype(jnp.bfloat16)
    y, dx = compiled(name)(x), compiled_gradient(name, "clipped")(x, jnp.ones_like(x))
    assert y.dtype == dx.dtype == jnp.bfloat16
    exact = np.asarray(x, np.float32)
    got = np.asarray(y, np.float32)
    assert set(got.tolist()) <= set(case.levels)
    if name.startswith("symmetric"):
        # The product with n is rounded to bfloat16's 8 bits before it is rounded to an integer.
        n = case.levels[-1]
        assert (np.abs(got - n * np.clip(exact, -1, 1)) <= 0.5 + n / 256).all()
    else:
        np.testing.assert_array_equal(got, case.oracle(exact))
    inside = np.abs(exact) <= case.reach
    np.testing.assert_array_equal(np.asarray(dx, np.float32), inside * case.height / case.reach)


@pytest.mark.parametrize("gradient", SURROGATES)
def test_every_surrogate_keeps_bfloat16(gradient: Any) -> None:
    x = jnp.asarray(EDGES).astype(jnp.bfloat16)
    derivative = ste_derivative(x, gradient)
    assert derivative.dtype == jnp.bfloat16
    assert jnp.isfinite(derivative).all()


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 3, 1)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    x = jnp.full(shape, -0.7, jnp.float32)
    for case in CASES.values():
        assert jax.eval_shape(case.quantizer, x).shape == shape


UNKNOWN: Any = "straight"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: symmetric(x, 1), "weight bits must be 2 to 8, not 1"),
        (lambda x: symmetric(x, 9), "weight bits must be 2 to 8, not 9"),
        (lambda x: quantize_activation(x, 0), "activation bits must be 1 or 2, not 0"),
        (lambda x: quantize_activation(x, 3), "activation bits must be 1 or 2, not 3"),
        (lambda x: ternarize(x, UNKNOWN), "'straight'; choose one of fixed, twn, density, max"),
        (lambda x: ternarize(x, "density", 0.0), r"density must lie in \(0, 1\], not 0"),
        (lambda x: ternarize(x, "density", 1.5), r"density must lie in \(0, 1\], not 1.5"),
        (lambda x: ternarize(x, "density", float("nan")), r"density must lie in \(0, 1\]"),
        (
            lambda x: jax.grad(lambda x: binarize(x, UNKNOWN).sum())(x),
            "'straight'; choose one of clipped, approx_sign, swish_sign",
        ),
    ],
)
def test_bad_arguments_are_told_with_the_remedy(
    call: Callable[[Array], Array], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        call(jnp.ones(3))
