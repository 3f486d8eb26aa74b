"""Bright field: pale translucent cells with dark rims and darker nuclei on a light ground."""

import numpy as np
from scipy import ndimage

from mbu_jax.data.synthetic.nuclei import Layout, draw_outline, place_nuclei
from mbu_jax.data.synthetic.texture import Field, fibres, sensor_noise, smooth_noise


def paint_bright_field(
    rng: np.random.Generator, shape: tuple[int, int]
) -> tuple[np.ndarray, Layout]:
    """Draws one image.

    Args:
      rng: the random generator to draw from.
      shape: (H, W).

    Returns:
      float32 [H, W, 3] (grey, so three equal channels), 1 being full scale; and its nuclei.
    """
    radius = rng.uniform(10, 18)
    layout = place_nuclei(
        rng,
        shape,
        radius=radius,
        spread=rng.uniform(0.1, 0.25),
        coverage=rng.uniform(0.08, 0.25),
        touching=rng.uniform(0, 0.15),
        elongation=rng.uniform(1.1, 1.8),
        roughness=rng.uniform(0.05, 0.2),
    )
    density = _nuclear(rng, layout) + _cells(rng, layout, radius) + _rods(rng, shape)
    density = ndimage.gaussian_filter(density, rng.uniform(0.6, 1.0), truncate=3)
    ground = rng.uniform(0.8, 0.95) * np.exp(0.03 * smooth_noise(rng, shape, 80))
    image = sensor_noise(
        rng, ground * np.exp(-density), photons=rng.uniform(3000, 9000), read=0.006
    )
    return np.repeat(image[..., None], 3, axis=2), layout


def _nuclear(rng: np.random.Generator, layout: Layout) -> Field:
    """Optical density of the nuclei alone: dark, speckled, with a darker rim."""
    strength = layout.per_nucleus(
        np.clip(0.72 + 0.12 * rng.standard_normal(layout.count), 0.45, 1.1)
    )
    speckles = 1 + 0.18 * smooth_noise(rng, layout.labels.shape, rng.uniform(1.5, 3))
    rim = 1 + 0.3 * np.exp(-((layout.depth / 1.5) ** 2))
    return strength * speckles * rim


def _cells(rng: np.random.Generator, layout: Layout, radius: float) -> Field:
    """Optical density of the cell bodies: one about each nucleus, some without; they overlap."""
    shape = layout.labels.shape
    density = np.zeros(shape, np.float32)
    centres = ndimage.center_of_mass(layout.inside, layout.labels, range(1, layout.count + 1))
    empty = rng.uniform(0, 1, (rng.poisson(1), 2)) * shape
    for y, x in [*centres, *empty]:
        y, x = np.array([y, x]) + rng.normal(0, radius, 2)
        size = radius * rng.uniform(2.2, 4.5)
        cell = draw_outline(rng, y, x, size, rng.uniform(1, 1.8), roughness=0.22)
        window = cell.window(shape)
        edge = (1 - cell.radial(window)) * np.float32(size)
        rim = np.exp(-((edge / 1.5) ** 2))
        body = np.clip(edge + 0.5, 0, 1)
        density[window] += rng.uniform(0.04, 0.16) * body + rng.uniform(0.05, 0.2) * rim
    mottled = 1 + 0.2 * smooth_noise(rng, shape, 12) + 0.1 * smooth_noise(rng, shape, 2)
    wrinkles = rng.uniform(0, 1.2) * fibres(rng, shape, rng.uniform(5, 15))
    return density * np.clip(mottled + wrinkles, 0, None)


def _rods(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    """Bacteria and dirt: thin dark rods, far smaller than a nucleus."""
    density = np.zeros(shape, np.float32)
    for _ in range(rng.poisson(rng.uniform(0, 25) * shape[0] * shape[1] / 128**2)):
        y, x = rng.uniform(0, 1, 2) * shape
        rod = draw_outline(rng, y, x, rng.uniform(1, 2), elongation=5, roughness=0)
        window = rod.window(shape)
        density[window][rod.radial(window) < 1] += np.float32(rng.uniform(0.1, 0.4))
    return density
