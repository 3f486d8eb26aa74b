"""Random textures: smooth noise, wavy fibres, and the noise of a camera."""

import numpy as np

type Field = np.ndarray
"""float32 [H, W]."""

# The squared weights of a cubic B-spline add up to 151/315 on average, along each axis.
_SPLINE_POWER = 151 / 315


def _spline(knots: Field, length: int, spacing: float, phase: float) -> Field:
    """Cubic B-spline [length, N] of knots [K, N] that are `spacing` pixels apart."""
    position = np.arange(length) / spacing + phase
    first = position.astype(int)
    t = (position - first).astype(np.float32)[:, None]
    weights = (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )
    # Four terms rather than a matrix product: BLAS differs between machines, and its threads
    # would contend with JAX's.
    taps = [weight * knots.take(first + k, axis=0) for k, weight in enumerate(weights)]
    return taps[0] + taps[1] + taps[2] + taps[3]


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], spacing: float) -> Field:
    """Gaussian noise whose details are about `spacing` pixels wide.

    Args:
      rng: the random generator to draw from.
      shape: (H, W).
      spacing: distance of the spline's knots in pixels, at least 1.

    Returns:
      float32 [H, W], mean 0 and variance 1 over many draws.
    """
    height, width = shape
    phase_y, phase_x = rng.random(2)
    size = [
        int((n - 1) / spacing + phase) + 4 for n, phase in ((height, phase_y), (width, phase_x))
    ]
    knots = rng.standard_normal(size, np.float32) / np.float32(_SPLINE_POWER)
    columns = _spline(knots.T, width, spacing, phase_x)
    return _spline(columns.T, height, spacing, phase_y)


def fibres(rng: np.random.Generator, shape: tuple[int, int], spacing: float) -> Field:
    """Draws wavy strands, as of connective tissue.

    Args:
      rng: the random generator to draw from.
      shape: (H, W).
      spacing: of the strands, about, in pixels.

    Returns:
      float32 [H, W], from 0 to 1, mostly near 0.
    """
    y, x = np.ogrid[: shape[0], : shape[1]]
    angle = rng.uniform(0, np.pi)
    across = (x * np.cos(angle) + y * np.sin(angle)).astype(np.float32)
    # The bends turn the phase faster than the distance does, so that no two strands look alike.
    bends = smooth_noise(rng, shape, 3 * spacing)
    strands = 0.5 + 0.5 * np.sin(2 * np.pi * across / np.float32(4 * spacing) + 5 * bends)
    presence = np.clip(smooth_noise(rng, shape, 2 * spacing), 0, 1)
    return strands**8 * presence


def sensor_noise(rng: np.random.Generator, image: Field, photons: float, read: float) -> Field:
    """Adds shot noise, whose variance grows with the signal, and read noise, which is constant.

    Args:
      rng: the random generator to draw from.
      image: float32 [H, W] or [H, W, C], 1 being full scale.
      photons: photons at full scale; fewer is noisier.
      read: standard deviation of the read noise, as a part of full scale.

    Returns:
      The noisy image, of the same shape, not clipped.
    """
    deviation = np.sqrt(np.maximum(image, 0) / np.float32(photons) + np.float32(read) ** 2)
    return image + deviation * rng.standard_normal(image.shape, np.float32)
