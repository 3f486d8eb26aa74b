"""BatchNorm and activation as one exact comparison of rational numbers."""

from bisect import bisect_left
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

CUTS = {1: (0,), 2: (-2, 0, 2)}


type Number = float | Fraction


def reaches(
    y: Number, cut: int, gamma: Number, beta: Number, mean: Number, var: Number, epsilon: Number
) -> bool:
    """Whether ``gamma (y - mean) / sqrt(var + epsilon) + beta >= cut``, without rounding."""
    left = Fraction(gamma) * (Fraction(y) - Fraction(mean))
    right = cut - Fraction(beta)  # times the square root of:
    radicand = Fraction(var) + Fraction(epsilon)
    if left >= 0:
        return right <= 0 or left**2 >= right**2 * radicand
    return right < 0 and left**2 <= right**2 * radicand


def activations(
    y: NDArray,
    gamma: NDArray,
    beta: NDArray,
    mean: NDArray,
    var: NDArray,
    epsilon: Number,
    bits: int,
) -> NDArray:
    """Activation values of [..., C] accumulators, each decided by `reaches`."""
    result = np.full(y.shape, -(2**bits - 1), np.int64)
    for c in range(y.shape[-1]):
        # The comparison is monotone in y, so a bisection decides all values.
        values = np.unique(y[..., c])
        values = values[::-1] if gamma[c] < 0 else values
        for cut in CUTS[bits]:
            channel = (cut, *(float(p[c]) for p in (gamma, beta, mean, var)), epsilon)
            first = bisect_left(values, True, key=lambda v, rest=channel: reaches(float(v), *rest))
            result[..., c] += 2 * np.isin(y[..., c], values[first:])
    return result
