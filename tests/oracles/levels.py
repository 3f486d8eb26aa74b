"""Quantization levels in NumPy, each by a definition of its own."""

import numpy as np
from numpy.typing import NDArray


def sign(x: NDArray) -> NDArray:
    return np.where(np.signbit(x) & (x != 0), -1, 1)


def uniform(x: NDArray, bits: int) -> NDArray:
    largest = np.float32(2 ** (bits - 1) - 1)
    return np.rint(np.minimum(np.maximum(x, np.float32(-1)), np.float32(1)) * largest)


def power_of_two(x: NDArray) -> NDArray:
    levels = np.array([0, 1, -1, 2, -2, 4, -4])  # by magnitude: argmin takes the first of equals
    wanted = 4 * np.clip(x.astype(np.float64), -2, 2)
    return levels[np.argmin(np.abs(wanted[..., None] - levels), axis=-1)]


def two_bits(x: NDArray) -> NDArray:
    return np.array([-3, -1, 1, 3])[np.searchsorted([-2.0, 0.0, 2.0], x, side="right")]


def twn_threshold(x: NDArray) -> float:
    return 0.7 * float(np.mean(np.abs(x.astype(np.float64))))


def masked_by_density(x: NDArray, density: float) -> NDArray:
    """The sign of the largest magnitudes; all of those that tie with the smallest kept."""
    wanted = max(1, round(density * x.size))
    smallest_kept = sorted(np.abs(x).ravel().tolist(), reverse=True)[wanted - 1]
    return np.where(np.abs(x) >= smallest_kept, sign(x), 0)


def weights(latent: NDArray, precision: str, ternarizer: str, density: float) -> NDArray:
    """What a layer multiplies by: its latent weights at its precision."""
    if precision == "float32":
        return latent
    if precision == "binary":
        return sign(latent)
    if precision == "pow2":
        return power_of_two(latent)
    if precision != "masked":
        return uniform(latent, int(precision[3:]))
    if ternarizer == "density":
        return masked_by_density(latent, density)
    if ternarizer == "twn":
        return np.where(np.abs(latent) > twn_threshold(latent), np.sign(latent), 0)
    if ternarizer == "max":
        return np.where(np.abs(latent) > 0.05 * np.abs(latent).max(), np.sign(latent), 0)
    return uniform(latent, bits=2)
