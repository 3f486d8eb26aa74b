"""Fluorescence microscopy: bright nuclei on a dark, uneven, noisy ground."""

import numpy as np
from scipy import ndimage

from mbu_jax.data.synthetic.nuclei import Layout, place_nuclei
from mbu_jax.data.synthetic.texture import Field, fibres, sensor_noise, smooth_noise


def paint_fluorescence(
    rng: np.random.Generator, shape: tuple[int, int]
) -> tuple[np.ndarray, Layout]:
    """Draws one image.

    Args:
      rng: the random generator to draw from.
      shape: (H, W).

    Returns:
      float32 [H, W, 3] (grey, so three equal channels), 1 being full scale; and its nuclei.
    """
    layout = place_nuclei(
        rng,
        shape,
        radius=np.exp(rng.uniform(np.log(10), np.log(24))),
        spread=rng.uniform(0.08, 0.25),
        coverage=rng.uniform(0.05, 0.4),
        touching=rng.uniform(0, 0.6),
        elongation=rng.uniform(1.1, 2.2),
        roughness=rng.uniform(0.02, 0.2),
    )
    sharp, defocused = _stained(rng, layout)
    focus = rng.uniform(0.5, 1.0)
    light = ndimage.gaussian_filter(sharp, focus, truncate=3)
    light += ndimage.gaussian_filter(defocused, focus + rng.uniform(0.5, 1.2), truncate=3)
    light += _stray_light(rng, light)
    light += _debris(rng, shape)

    gain = np.exp(rng.uniform(0.1, 0.35) * smooth_noise(rng, shape, 60))
    offset = np.exp(rng.uniform(np.log(0.02), np.log(0.2)))
    offset *= np.clip(1 + 0.3 * smooth_noise(rng, shape, 60), 0.2, None)
    exposure = np.exp(rng.uniform(np.log(0.4), np.log(0.75)))
    image = exposure * (light * gain + offset)
    photons = np.exp(rng.uniform(np.log(200), np.log(2000)))
    image = sensor_noise(rng, image, photons, read=0.004)
    return np.repeat(image[..., None], 3, axis=2), layout


def _stained(rng: np.random.Generator, layout: Layout) -> tuple[Field, Field]:
    """The light of the nuclei in focus, and of those that are not; 1 is a typical nucleus."""
    shape = layout.labels.shape
    brightness = np.exp(rng.uniform(0.1, 0.4) * rng.standard_normal(layout.count))
    brightness = np.clip(brightness, 0.4, 2.5)
    dome = (1 - layout.radial**2 + 1e-3) ** rng.uniform(0.1, 0.5)
    chromatin = smooth_noise(rng, shape, rng.uniform(1.5, 4)) * rng.uniform(0.05, 0.25)
    clumps = np.clip(smooth_noise(rng, shape, rng.uniform(2.5, 5)) - 0.8, -0.3, 1)
    # Positive: the bright chromocentres of mouse cells; negative: the dark nucleoli of human ones.
    clumps *= rng.uniform(-0.4, 0.6)
    light = layout.per_nucleus(brightness) * dome * np.exp(chromatin + clumps)
    light *= 1 + 0.4 * np.maximum(layout.crossings.astype(np.float32) - 1, 0)
    in_focus = layout.per_nucleus(rng.random(layout.count) > rng.uniform(0, 0.4))
    return light * in_focus, light * (1 - in_focus)


def _stray_light(rng: np.random.Generator, light: Field) -> Field:
    """Glow around the nuclei, and haze from nuclei far out of focus, which are no objects."""
    glow = ndimage.gaussian_filter(light, rng.uniform(3, 8), truncate=2)
    haze = np.clip(smooth_noise(rng, light.shape, rng.uniform(12, 30)) - 0.5, 0, 1)
    return rng.uniform(0, 0.3) * glow + rng.uniform(0, 0.25) * haze


def _debris(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    """Specks far smaller than a nucleus, and faint cytoplasm."""
    specks = np.zeros(shape, np.float32)
    count = rng.poisson(rng.uniform(0, 6) * shape[0] * shape[1] / 128**2)
    rows, columns = rng.integers(shape[0], size=count), rng.integers(shape[1], size=count)
    specks[rows, columns] = rng.uniform(1, 7, count)
    specks = ndimage.gaussian_filter(specks, rng.uniform(0.7, 1.2), truncate=3)
    return specks + rng.uniform(0, 0.25) * fibres(rng, shape, rng.uniform(5, 14))
