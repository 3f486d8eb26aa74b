"""Folding BatchNorm and activation into one comparison a channel and level.

Behind a quantized convolution stand BatchNorm and a sign (or a two-bit activation). Both are
monotone in the accumulator y, so together they are comparisons ``y >= theta``. Every consumer,
the model in evaluation mode and the packed network alike, compares against the theta made
here; that is why they agree bit for bit. So do the logits: the last layer's weights are rounded
to where no sum of them rounds.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

INT_MAX = 2**31 - 1
_FLOAT_MAX = np.finfo(np.float32).max
_FLOAT_TINY = np.finfo(np.float32).tiny  # the smallest normal number

_CUTS = {1: (0.0,), 2: (-2.0, 0.0, 2.0)}  # where `quantize_activation` changes level


class Thresholds(NamedTuple):
    """Comparisons that replace BatchNorm and activation.

    The activation's code is ``sum over k of (sign * y >= theta[k])`` and its value
    ``2 code - (2^bits - 1)``.

    Attributes:
      theta: [2^bits - 1, C] int32 for integer accumulators, float32 for float ones; ascending
        along the first axis. ``±INT_MAX`` (float: the largest finite) is never or always passed.
      sign: [C] float32, -1 where BatchNorm's scale is negative: such a channel's weights flip.
    """

    theta: NDArray
    sign: NDArray


def fold_batch_norm(
    scale: ArrayLike,
    bias: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    *,
    epsilon: float,
    bits: int = 1,
    integer: bool = True,
    factor: float = 1.0,
) -> Thresholds:
    """Thresholds equivalent to BatchNorm (running statistics) and activation.

    ``scale (y - mean) / sqrt(var + epsilon) + bias >= cut`` solved for y in float64, then
    rounded up to the next value that an accumulator can have: an integer, or a normal float32.

    Args:
      scale: [C] BatchNorm's gamma; 0 makes the channel constant.
      bias: [C] BatchNorm's beta.
      mean: [C] running mean of the accumulator.
      var: [C] running variance of the accumulator.
      epsilon: BatchNorm's epsilon.
      bits: activation bits, 1 or 2.
      integer: whether accumulators are integers (quantized weights on quantized activations)
        or float32.
      factor: what the statistics' accumulators are multiplied by to give those that are compared,
        above 0.

    Returns:
      The thresholds.

    Raises:
      ValueError: where a statistic or parameter is not finite, or a variance is negative.

    Example:
      >>> fold_batch_norm([2.0, -1.0], [1.0, 0.0], [0.0, 3.5], [4.0, 1.0], epsilon=0.0)
      Thresholds(theta=array([[-1, -3]], dtype=int32), sign=array([ 1., -1.], dtype=float32))

    Source: Umuroglu et al., "FINN", 2017, §4.2.2, with gamma <= 0 handled.
    """
    gamma, beta, mu, sigma2 = (np.asarray(a, np.float64) for a in (scale, bias, mean, var))
    if not all(np.isfinite(a).all() for a in (gamma, beta, mu, sigma2)) or (sigma2 < 0).any():
        raise ValueError("BatchNorm holds a value that is not finite, or a negative variance")
    cuts = np.asarray(_CUTS[bits])[:, None]
    sign = np.where(gamma < 0, -1.0, 1.0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        tau = factor * sign * (mu + (cuts - beta) * np.sqrt(sigma2 + epsilon) / gamma)
    tau = np.where(gamma == 0, np.where(beta >= cuts, -np.inf, np.inf), tau)
    if integer:
        theta = np.clip(np.ceil(tau), -INT_MAX, INT_MAX).astype(np.int32)
    else:
        clipped = np.clip(tau, -_FLOAT_MAX, _FLOAT_MAX)
        nearest = clipped.astype(np.float32)
        with np.errstate(over="ignore", under="ignore"):  # the largest has no next
            above = np.nextafter(nearest, np.float32(np.inf))
        theta = np.where(nearest < clipped, above, nearest)
        # Compiled programs take what lies between for 0.
        theta = np.where((theta > 0) & (theta < _FLOAT_TINY), _FLOAT_TINY, theta)
        theta = np.where((theta < 0) & (theta > -_FLOAT_TINY), np.float32(0), theta)
    return Thresholds(theta, sign.astype(np.float32))


def round_for_exact_sums(
    weight: ArrayLike, bias: ArrayLike, *, largest: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Round a linear layer so that its sums over integer inputs are exact in float32.

    Each output's weights and bias become multiples of one power of two, so large that no sum
    of them needs more than float32's 24 bits: the order of the sum then makes no difference.

    Args:
      weight: [C, K] weights of the inputs.
      bias: [K].
      largest: the largest magnitude of an input, an integer.

    Returns:
      The rounded weight and bias. They move by at most 2^-23 of ``largest * sum |w| + |b|``.

    Raises:
      ValueError: where a value is not finite.

    Example:
      >>> weight, bias = round_for_exact_sums([[1.0], [1 / 3]], [0.0], largest=1)
      >>> float(weight[1, 0] * 2**22)
      1398101.0
    """
    w, b = np.asarray(weight, np.float64), np.asarray(bias, np.float64)
    if not (np.isfinite(w).all() and np.isfinite(b).all()):
        raise ValueError("the head's weights or bias hold a value that is not finite")
    total = largest * np.abs(w).sum(axis=0) + np.abs(b)
    _, exponent = np.frexp(total)  # total < 2^exponent
    # One bit of the 24 is left for what the rounding itself adds.
    step = np.ldexp(1.0, np.maximum(exponent - 23, np.finfo(np.float32).minexp))
    return (np.rint(w / step) * step).astype(np.float32), (np.rint(b / step) * step).astype(
        np.float32
    )


_IMAGE_BITS = 15  # of the sum of an output's magnitudes, so that each fits an int16
MOST_IMAGE_TERMS = 2**_IMAGE_BITS // 2  # rounding may add half a step to each


def round_image_weights(weight: ArrayLike) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Round the weights on an image so that their sums over its levels are exact in float32.

    Each output's weights become integers times one power of two. The integers' magnitudes sum to
    less than 2^15, so sums over 2 level - 255 stay below 2^23, exact in float32 as in int32.

    Args:
      weight: [..., K] weights, K outputs.

    Returns:
      Integers of the same shape, and what they are multiples of, [K]. Weights move by at most
      2^-14 of the sum of an output's magnitudes.

    Raises:
      ValueError: where a value is not finite, or so large that sums would not be.

    Example:
      >>> integers, step = round_image_weights([[1.0], [-1 / 3]])
      >>> integers.ravel().tolist(), float(step[0]) == 2.0**-14
      ([16384, -5461], True)
    """
    w = np.asarray(weight, np.float64)
    if not (np.abs(w) < 1e30).all():
        raise ValueError("the stem's weights hold a value that is not finite, or beyond 1e30")
    terms = w[..., 0].size
    if terms > MOST_IMAGE_TERMS:
        raise ValueError(f"the stem sums {terms} products; give images of fewer channels")
    total = np.abs(w).reshape(terms, -1).sum(axis=0)
    largest = 2**_IMAGE_BITS - 1 - terms / 2  # rounding adds at most half a step to each
    _, exponent = np.frexp(total / largest)  # total / largest < 2^exponent
    step = np.ldexp(1.0, np.maximum(exponent, np.finfo(np.float32).minexp))
    return np.rint(w / step).astype(np.int16), step
