"""Folded BatchNorm against exact arithmetic: rational numbers, and sixty decimal digits."""

from decimal import Decimal, localcontext
from fractions import Fraction
from random import Random
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mbu_jax.quantizers import quantize_activation
from mbu_jax.thresholds import (
    INT_MAX,
    Thresholds,
    fold_batch_norm,
    round_for_exact_sums,
    round_image_weights,
)
from tests.oracles.batch_norm import CUTS, activations, reaches

LARGEST_SUM = 2**24 - 1
FLOAT_MAX = float(np.finfo(np.float32).max)
TINY = 2.0**-126


class Channel(NamedTuple):
    """BatchNorm's parameters and statistics of one channel."""

    gamma: float
    beta: float
    mean: float
    var: float


gammas = (
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-30, -1e-30, 5e-324, 1e30, -1e30])
    | st.floats(-3, 3, width=32)
    | st.floats(-1e300, 1e300)
)
betas = st.sampled_from([0.0, -0.0, -2.0, 2.0, 1e-20]) | st.floats(-5, 5, width=32)
means = st.integers(-500, 500).map(float) | st.floats(-1e4, 1e4, width=32) | st.floats(-1e9, 1e9)
variances = st.sampled_from([0.0, 1.0, 2.25, 1e-30, 1e30]) | st.floats(0, 1e6, width=32)
channels = st.builds(Channel, gammas, betas, means, variances)
epsilons = st.sampled_from([0.0, 1e-5, 1e-3])


def fold(channel: Channel, **options: float) -> Thresholds:
    return fold_batch_norm(*([value] for value in channel), **options)  # pyrefly: ignore


def tau(channel: Channel, cut: int, epsilon: float) -> tuple[Decimal, Decimal]:
    """Accumulator at which the normalized value is the cut, and how far float64 may miss it."""
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 60, -(10**6), 10**6
        gamma, beta, mean, var = map(Decimal, channel)
        distance = (cut - beta) * (var + Decimal(epsilon)).sqrt() / gamma
        return mean + distance, Decimal("1e-15") * (abs(mean) + abs(distance)) + Decimal("1e-300")


@pytest.mark.parametrize("bits", [1, 2])
@settings(deadline=None, max_examples=300)
@given(channel=channels, epsilon=epsilons)
@example(channel=Channel(-0.5, 2.0, 7.0, 2.25), epsilon=0.0)
@example(channel=Channel(1e-30, 0.3, 1.0, 4.0), epsilon=1e-5)
def test_integer_comparison_is_the_exact_rule(bits: int, channel: Channel, epsilon: float) -> None:
    assume(channel.var + epsilon > 0)
    theta, sign = fold(channel, epsilon=epsilon, bits=bits)
    assert theta.shape == (2**bits - 1, 1)
    assert theta.dtype == np.int32
    assert sign.dtype == np.float32
    assert sign.tolist() == [-1 if channel.gamma < 0 else 1]
    assert (theta[:-1] <= theta[1:]).all()
    for cut, level in zip(CUTS[bits], theta[:, 0].tolist(), strict=True):
        near = {level + offset for offset in range(-3, 4)} | {0, LARGEST_SUM, -LARGEST_SUM}
        for signed in near:
            y = int(sign[0]) * signed
            if abs(y) > LARGEST_SUM:
                continue
            # Where the bias is the cut, tau is the mean and nothing is rounded on the way.
            if channel.gamma and channel.beta != cut:
                exact, error = tau(channel, cut, epsilon)
                if abs(y - exact) <= error:
                    continue
            assert (signed >= level) == reaches(y, cut, *channel, epsilon)


@pytest.mark.parametrize(
    ("channel", "bits", "theta", "sign"),
    [
        (Channel(1, 0, 0, 1), 1, [0], 1),
        (Channel(1, 0, 0.5, 1), 1, [1], 1),  # y >= 0.5 is y >= 1
        (Channel(1, 0, -0.5, 1), 1, [0], 1),
        (Channel(-1, 0, 0.5, 1), 1, [0], -1),  # y <= 0.5 is -y >= 0
        (Channel(-1, 0, -3, 1), 1, [3], -1),  # y <= -3
        (Channel(2, 1, 0, 4), 1, [-1], 1),
        (Channel(-3, -2, 1, 2.25), 1, [0], -1),  # -3 (y - 1) / 1.5 >= 2 at y <= 0
        (Channel(0, 0, 9, 1), 1, [-INT_MAX], 1),  # 0 activates: sign(0) is +1
        (Channel(-0.0, -0.0, 9, 1), 1, [-INT_MAX], 1),
        (Channel(0, -1e-20, 9, 1), 1, [INT_MAX], 1),
        (Channel(0, 1, 9, 1), 2, [-INT_MAX, -INT_MAX, INT_MAX], 1),
        (Channel(0, -2, 9, 1), 2, [-INT_MAX, INT_MAX, INT_MAX], 1),
        (Channel(0, 2, 9, 1), 2, [-INT_MAX, -INT_MAX, -INT_MAX], 1),
        (Channel(1, 0, 0, 1), 2, [-2, 0, 2], 1),
        (Channel(-0.5, 0, 1, 1), 2, [-5, -1, 3], -1),
        (Channel(1, 0, 0.25, 0.0625), 2, [0, 1, 1], 1),
        (Channel(1e-300, -1, 0, 1), 1, [INT_MAX], 1),
        (Channel(1e-300, 1, 0, 1), 1, [-INT_MAX], 1),
        (Channel(1e-300, 0, 5, 1), 1, [5], 1),
        (Channel(5e-324, -1e308, 5, 1e308), 1, [INT_MAX], 1),  # overflows on the way
        (Channel(-1e300, 3, -7, 1), 1, [7], -1),
    ],
)
def test_thresholds_by_hand(channel: Channel, bits: int, theta: list[int], sign: int) -> None:
    folded = fold(channel, epsilon=0.0, bits=bits)
    assert folded.theta[:, 0].tolist() == theta
    assert folded.sign.tolist() == [sign]


@pytest.mark.parametrize("bits", [1, 2])
@settings(deadline=None, max_examples=200)
@given(channel=channels, epsilon=epsilons)
def test_float_theta_is_the_smallest_float32_that_passes(
    bits: int, channel: Channel, epsilon: float
) -> None:
    assume(channel.var + epsilon > 0)
    theta, sign = fold(channel, epsilon=epsilon, bits=bits, integer=False)
    assert theta.shape == (2**bits - 1, 1)
    assert theta.dtype == np.float32
    assert np.isfinite(theta).all()
    assert (theta[:-1] <= theta[1:]).all()
    for cut, level in zip(CUTS[bits], theta[:, 0], strict=True):
        if channel.gamma == 0:
            assert level == (-FLOAT_MAX if channel.beta >= cut else FLOAT_MAX)
            continue
        exact, error = tau(channel, cut, epsilon)
        exact *= int(sign[0])
        if abs(exact) <= Decimal(TINY) + error:
            assert abs(level) in (0, np.float32(TINY))
            most = exact + error + Decimal(TINY) * Decimal("1.0000001")
            assert exact - error <= Decimal(float(level)) <= most
        elif level == -np.float32(FLOAT_MAX):
            assert exact <= Decimal(-FLOAT_MAX) * Decimal("0.9999999")
        elif exact > Decimal(FLOAT_MAX):
            assert level == np.float32(FLOAT_MAX)
        else:
            below = Decimal(float(np.nextafter(level, np.float32(-np.inf))))
            assert below < exact + error
            assert Decimal(float(level)) >= exact - error


@pytest.mark.parametrize("gamma", [1.0, -1.0, 0.3, -7e-20])
def test_float_theta_of_an_exact_tau(gamma: float) -> None:
    """A tau that float32 holds is theta itself; one between two floats is the upper of them."""
    sign = np.sign(gamma)
    held, between = float(np.float32(0.1)), 0.1
    at = fold(Channel(gamma, 0, held, 1), epsilon=1e-5, integer=False)
    assert at.theta[0, 0] == np.float32(sign * held)
    above = fold(Channel(gamma, 0, between, 1), epsilon=1e-5, integer=False).theta[0, 0]
    assert float(above) > sign * between
    assert float(np.nextafter(above, np.float32(-1))) < sign * between


@pytest.mark.parametrize("tau", [1e-40, -1e-40, 1e-45, -1.1e-38])
def test_a_float_theta_is_0_or_a_normal_number(tau: float) -> None:
    theta = fold(Channel(1, 0, tau, 1), epsilon=0.0, integer=False).theta[0, 0]
    assert theta == (np.float32(TINY) if tau > 0 else 0)


@settings(deadline=None)
@given(channel=channels, bits=st.sampled_from([1, 2]))
def test_a_factor_enlarges_the_accumulators(channel: Channel, bits: int) -> None:
    """As if 255 times each had been seen: mean and deviation grow alike."""
    assume(0 < channel.var < 1e200 and abs(channel.mean) < 1e100)
    seen = channel._replace(mean=255 * channel.mean, var=255**2 * channel.var)
    larger = fold(seen, epsilon=0.0, bits=bits)
    once = fold(channel, epsilon=0.0, bits=bits, factor=255.0)
    np.testing.assert_array_equal(once.sign, larger.sign)
    # Rounding may put a tau that is all but an integer on either side of it.
    assert (np.abs(once.theta.astype(float) - larger.theta) <= 1 + 1e-9 * np.abs(once.theta)).all()


def test_channels_are_folded_side_by_side() -> None:
    rng = np.random.default_rng(0)
    parameters = rng.normal(size=(4, 6)) * [[1], [1], [9], [0]] + [[0], [0], [0], [30]]
    parameters[0, 2] = 0
    y = np.arange(-60, 61)[:, None] * np.ones((1, 6), int)
    for bits in (1, 2):
        for integer in (True, False):
            theta, sign = fold_batch_norm(*parameters, epsilon=1e-5, bits=bits, integer=integer)
            assert theta.shape == (2**bits - 1, 6)
            code = (sign * y >= theta[:, None]).sum(axis=0)
            expected = activations(y, *parameters, epsilon=1e-5, bits=bits)
            np.testing.assert_array_equal(2 * code - (2**bits - 1), expected)


def test_thresholds_reproduce_the_activation_of_training() -> None:
    """At unit scale the accumulator is the normalized value itself."""
    y = np.arange(-9, 10, dtype=np.float32)
    for bits in (1, 2):
        theta, sign = fold(Channel(1, 0, 0, 1), epsilon=0.0, bits=bits)
        values = 2 * (sign * y >= theta).sum(axis=0) - (2**bits - 1)
        np.testing.assert_array_equal(values, quantize_activation(y, bits))  # pyrefly: ignore


@pytest.mark.parametrize("integer", [True, False])
@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float, position: int, integer: bool) -> None:
    parameters: list[NDArray] = [np.ones(3, np.float32) for _ in range(4)]
    parameters[position][1] = bad
    with pytest.raises(ValueError, match="not finite"):
        fold_batch_norm(*parameters, epsilon=1e-5, integer=integer)


def test_a_negative_variance_is_refused() -> None:
    with pytest.raises(ValueError, match="negative variance"):
        fold(Channel(1, 0, 0, -1e-9), epsilon=1.0)


weights = st.floats(-(2.0**99), 2.0**99, width=32) | st.floats(-2, 2, width=32)


@given(st.lists(weights, min_size=1, max_size=40), weights, st.sampled_from([1, 3]), st.randoms())
def test_rounded_sums_are_exact_in_any_order(
    weight: list[float], bias: float, largest: int, random: Random
) -> None:
    rounded, offset = round_for_exact_sums(np.array(weight)[:, None], [bias], largest=largest)
    assert rounded.dtype == offset.dtype == np.float32
    inputs = [random.choice(range(-largest, largest + 1, 2)) for _ in weight]
    terms = [(float(w), a) for w, a in zip(rounded[:, 0], inputs, strict=True)] + [
        (float(offset[0]), 1)
    ]
    random.shuffle(terms)
    total = np.float32(0)
    for w, a in terms:
        total += np.float32(w) * np.float32(a)
    exact = sum((Fraction(w) * a for w, a in terms), Fraction(0))
    assert Fraction(float(total)) == exact

    scale = largest * sum(abs(Fraction(w)) for w in weight) + abs(Fraction(bias))
    worst = max(Fraction(2) ** -23 * scale, Fraction(2) ** -126)
    moved = [
        abs(Fraction(float(r)) - Fraction(w)) for r, w in zip(rounded[:, 0], weight, strict=True)
    ]
    assert max([*moved, abs(Fraction(float(offset[0])) - Fraction(bias))]) <= worst


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_head_that_is_not_finite_is_refused(bad: float) -> None:
    for weight, bias in (([[bad]], [0.0]), ([[0.0]], [bad])):
        with pytest.raises(ValueError, match="not finite"):
            round_for_exact_sums(weight, bias, largest=1)


image_weights = st.floats(-(2.0**60), 2.0**60, width=32) | st.floats(-2, 2, width=32)


@given(st.lists(image_weights, min_size=1, max_size=45))
def test_image_weights_become_small_integers(weight: list[float]) -> None:
    integers, step = round_image_weights(np.array(weight)[:, None])
    assert (integers.dtype, step.shape) == (np.int16, (1,))
    assert np.abs(integers.astype(int)).sum() < 2**15
    assert np.frexp(step[0])[0] == 0.5
    total = sum(abs(Fraction(w)) for w in weight)
    for integer, w in zip(integers[:, 0], weight, strict=True):
        moved = abs(int(integer) * Fraction(float(step[0])) - Fraction(w))
        assert moved <= max(total / 2**14, Fraction(2) ** -126)


def test_image_weights_that_make_no_sense_are_refused() -> None:
    for bad in (np.nan, np.inf, -1e31):
        with pytest.raises(ValueError, match="stem's weights"):
            round_image_weights([[bad], [1.0]])
    with pytest.raises(ValueError, match="fewer channels"):
        round_image_weights(np.zeros((2**14 + 1, 1)))
