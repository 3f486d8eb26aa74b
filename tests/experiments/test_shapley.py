"""Shapley values against averages over all orders, against games whose values are known."""

import itertools
import math

import numpy as np
import pytest

from experiments.sweep.shapley import coefficients, exact, gains, noise_interval, sampled


def coalition(players) -> int:
    return sum(2**player for player in players)


def averaged_over_orders(values, players, largest):
    """The definition, order by order; only the first `largest` players of each count."""
    total, count = np.zeros(players), math.factorial(players)
    for order in itertools.permutations(range(players)):
        for place in range(largest):
            before, after = coalition(order[:place]), coalition(order[: place + 1])
            total[order[place]] += values[after] - values[before]
    # A player is among the first ones in this share of the orders.
    return total / (count * largest / players)


@pytest.mark.parametrize("largest", [1, 2, 4, 5])
def test_values_are_averages_over_all_orders(largest):
    values = np.random.default_rng(largest).normal(size=32)
    expected = averaged_over_orders(values, 5, largest)
    np.testing.assert_allclose(exact(values, largest), expected, atol=1e-12)


def test_an_additive_game_gives_each_player_its_own():
    own = np.array([0.5, -2.0, 0.0, 3.0])
    values = [own[[bool(s >> i & 1) for i in range(4)]].sum() for s in range(16)]
    for largest in (1, 3, 4):
        np.testing.assert_allclose(exact(values, largest), own, atol=1e-12)
    value, half_width = noise_interval(values)
    np.testing.assert_allclose(value, own, atol=1e-12)
    np.testing.assert_allclose(half_width, 0, atol=1e-12)


def test_the_glove_game():
    """One left glove (player 0) and two right ones; a pair is worth 1."""
    values = [float(bool(s & 1) and bool(s & 6)) for s in range(8)]
    np.testing.assert_allclose(exact(values), [2 / 3, 1 / 6, 1 / 6])


def test_values_share_out_what_all_are_worth():
    values = np.random.default_rng(0).normal(size=2**12)
    assert exact(values).sum() == pytest.approx(values[-1] - values[0])
    assert coefficients(12).shape == (12, 4096)


def test_gains_are_by_player_and_average_to_the_values():
    values = np.random.default_rng(1).normal(size=16)
    orders = list(itertools.permutations(range(4)))
    rows = []
    for order in orders:
        path = [values[coalition(order[:size])] for size in range(5)]
        added = gains(order, path)
        assert added[order[2]] == path[3] - path[2]
        rows.append(added)
    mean, half_width = sampled(rows)
    np.testing.assert_allclose(mean, exact(values), atol=1e-12)
    assert (half_width > 0).all()


def test_intervals_of_samples_hold_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(2)
    mean, half_width = sampled(rng.normal(1.5, 2.0, size=(6, 4000)))
    assert np.mean(np.abs(mean - 1.5) <= half_width) == pytest.approx(0.95, abs=0.01)


def test_what_a_sample_does_not_tell_is_left_out():
    nan = np.nan
    mean, half_width = sampled([[1.0, nan, nan], [3.0, 5.0, nan], [nan, nan, nan]])
    np.testing.assert_array_equal(mean, [2.0, 5.0, nan])
    # Two values 2 apart: standard error 1, and 12.706 is the 97.5 % quantile of one degree.
    np.testing.assert_allclose(half_width, [12.706, nan, nan], rtol=1e-4)


def test_intervals_of_a_noisy_table_hold_the_values_as_often_as_they_say():
    rng = np.random.default_rng(3)
    own = np.arange(5.0)
    inside = (np.arange(32)[:, None] >> np.arange(5)) & 1
    for largest in (2, 5):
        found = []
        for _ in range(400):
            value, half_width = noise_interval(inside @ own + rng.normal(size=32), largest)
            found.append(np.abs(value - own) <= half_width)
        assert np.mean(found) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(
    "call",
    [
        lambda: exact([1.0]),
        lambda: exact(np.zeros(6)),
        lambda: exact(np.zeros((2, 2))),
        lambda: exact(np.zeros(8), largest=4),
        lambda: exact(np.zeros(8), largest=0),
        lambda: gains([0, 0], [1, 2, 3]),
        lambda: gains([0, 2], [1, 2, 3]),
    ],
)
def test_what_is_no_game_is_refused(call):
    with pytest.raises(ValueError, match=r"coalition|largest|order"):
        call()
