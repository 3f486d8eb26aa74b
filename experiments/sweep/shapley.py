"""Shapley values of a game: exactly from a table of all coalitions, or from random orders.

A game gives every coalition of n players a value. A player's Shapley value is what the player adds,
averaged over all orders in which coalitions may grow. A coalition is a number whose bit i tells
whether player i is in it.

Source: Castro, Gómez and Tejada, "Polynomial calculation of the Shapley value based on sampling",
2009, for the estimate from random orders.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


class Interval(NamedTuple):
    """Estimates with confidence intervals.

    Attributes:
      value: [n] float64.
      half_width: [n] float64, NaN where nothing is known of the spread.
    """

    value: NDArray[np.float64]
    half_width: NDArray[np.float64]


def coefficients(players: int, largest: int | None = None) -> NDArray[np.float64]:
    """Weigh the coalitions' values: Shapley values are a linear map of the table.

    Args:
      players: n.
      largest: leave out what players add to coalitions that become larger than this; the sizes
        that are left count equally, as all do by default.

    Returns:
      float64 [n, 2^n].

    Example:
      >>> coefficients(2).tolist()
      [[-0.5, 0.5, -0.5, 0.5], [-0.5, -0.5, 0.5, 0.5]]
    """
    largest = players if largest is None else largest
    if not 1 <= largest <= players:
        raise ValueError(f"largest is {largest}; give a number from 1 to {players}")
    coalitions = np.arange(2**players)
    sizes = np.bitwise_count(coalitions).astype(np.int64)
    # Of a coalition that grows by one player, by the size it had.
    weight = np.zeros(players + 1)
    weight[:largest] = [1 / (largest * math.comb(players - 1, size)) for size in range(largest)]
    inside = (coalitions >> np.arange(players)[:, None]) & 1 == 1
    return np.where(inside, weight[sizes - 1], -weight[sizes])


def exact(values: ArrayLike, largest: int | None = None) -> NDArray[np.float64]:
    """Compute Shapley values from the values of all coalitions.

    Args:
      values: [2^n], by coalition.
      largest: see `coefficients`.

    Returns:
      float64 [n].

    Example:
      >>> exact([0.0, 1.0, 2.0, 5.0]).tolist()
      [2.0, 3.0]
    """
    table = np.asarray(values, np.float64)
    return coefficients(_players(table), largest) @ table


def noise_interval(
    values: ArrayLike, largest: int | None = None, confidence: float = 0.95
) -> Interval:
    """Compute Shapley values of a table whose entries carry independent, equal noise.

    The noise is estimated by what is left of the table once the best additive game is taken away.
    What players really add only together counts as noise there, so intervals are too wide rather
    than too narrow.

    Args:
      values: [2^n], by coalition, n at least 2.
      largest: see `coefficients`.
      confidence: of the intervals, between 0 and 1.

    Returns:
      The values with intervals.
    """
    table = np.asarray(values, np.float64)
    players = _players(table)
    inside = (np.arange(len(table))[:, None] >> np.arange(players)) & 1
    design = np.concatenate([np.ones((len(table), 1)), inside], axis=1)
    left = table - design @ np.linalg.lstsq(design, table)[0]
    freedom = len(table) - players - 1
    noise = math.sqrt(np.sum(left**2) / freedom)
    weights = coefficients(players, largest)
    spread = noise * np.linalg.norm(weights, axis=1)
    return Interval(weights @ table, stats.t.ppf((1 + confidence) / 2, freedom) * spread)


def gains(order: ArrayLike, values: ArrayLike) -> NDArray[np.float64]:
    """Tell what each player adds where a coalition grows in one order.

    Args:
      order: [n], the players as they join.
      values: [n + 1], of the growing coalition, the empty one first.

    Returns:
      float64 [n], by player.

    Example:
      >>> gains([1, 0], [0.0, 2.0, 5.0]).tolist()
      [3.0, 2.0]
    """
    players = np.asarray(order)
    if sorted(players.tolist()) != list(range(len(players))):
        raise ValueError(f"{players.tolist()} is no order of {len(players)} players")
    added = np.empty(len(players))
    added[players] = np.diff(np.asarray(values, np.float64))
    return added


def sampled(samples: ArrayLike, confidence: float = 0.95) -> Interval:
    """Estimate means from independent samples, by Student's t.

    Args:
      samples: [P, n]; NaN where a sample tells nothing of a player.
      confidence: of the intervals, between 0 and 1.

    Returns:
      Means over samples with intervals; NaN without a sample, and as half width without two.

    Example:
      >>> value, half_width = sampled([[1.0], [2.0], [3.0]])
      >>> value.tolist(), half_width.round(2).tolist()
      ([2.0], [2.48])
    """
    table = np.asarray(samples, np.float64)
    known = ~np.isnan(table)
    counts = known.sum(axis=0)
    total = np.where(known, table, 0).sum(axis=0)
    mean = np.where(counts > 0, total / np.maximum(counts, 1), np.nan)
    squares = np.where(known, (table - mean) ** 2, 0).sum(axis=0)
    freedom = np.maximum(counts - 1, 1)
    error = np.sqrt(squares / freedom / np.maximum(counts, 1))
    half_width = stats.t.ppf((1 + confidence) / 2, freedom) * error
    return Interval(mean, np.where(counts > 1, half_width, np.nan))


def _players(table: NDArray[np.float64]) -> int:
    players = len(table).bit_length() - 1
    if table.ndim != 1 or players < 1 or len(table) != 2**players:
        raise ValueError(f"a table of shape {table.shape} has no entry for every coalition")
    return players
