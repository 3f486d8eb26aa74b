"""Histology (H&E and the like): purple nuclei in pink or lilac textured tissue."""

import numpy as np
from scipy import ndimage

from mbu_jax.data.synthetic.nuclei import Layout, place_nuclei
from mbu_jax.data.synthetic.texture import Field, fibres, sensor_noise, smooth_noise

# Optical density (red, green, blue) of the nuclear stain, of the tissue's stain, and of the slide.
_STAINS = (
    ((0.75, 1.15, 0.25), (0.12, 0.18, 0.04), (0.20, 0.28, 0.08)),  # violet on lilac
    ((0.70, 1.05, 0.38), (0.06, 0.45, 0.25), (0.08, 0.15, 0.06)),  # purple on pink
    ((0.50, 1.10, 0.55), (0.06, 0.14, 0.08), (0.08, 0.08, 0.13)),  # magenta on white
)


def paint_histology(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, Layout]:
    """Draws one image: light through stained tissue, by the law of Beer and Lambert.

    Args:
      rng: the random generator to draw from.
      shape: (H, W).

    Returns:
      float32 [H, W, 3], 1 being full scale; and its nuclei.
    """
    layout = place_nuclei(
        rng,
        shape,
        radius=np.exp(rng.uniform(np.log(10), np.log(24))),
        spread=rng.uniform(0.15, 0.3),
        coverage=rng.uniform(0.1, 0.4),
        touching=rng.uniform(0, 0.5),
        elongation=rng.uniform(1.4, 3),
        roughness=rng.uniform(0.05, 0.2),
    )
    focus = rng.uniform(0.7, 1.3)
    nuclear = ndimage.gaussian_filter(_chromatin(rng, layout), focus, truncate=3)
    nuclear += _smudges(rng, nuclear)
    tissue = _tissue(rng, shape, nuclear)

    stains = np.array(_STAINS[rng.choice(3, p=(0.55, 0.25, 0.2))], np.float32)
    stains *= np.exp(0.1 * rng.standard_normal(stains.shape, np.float32))
    nuclear_stain, tissue_stain, slide = stains
    density = nuclear[..., None] * nuclear_stain + tissue[..., None] * tissue_stain + slide
    lamp = 0.95 * np.exp(0.03 * smooth_noise(rng, shape, 80))
    image = lamp[..., None] * np.exp(-density)
    return sensor_noise(rng, image, photons=rng.uniform(1500, 6000), read=0.004), layout


def _chromatin(rng: np.random.Generator, layout: Layout) -> Field:
    """Nuclear stain of dense (evenly dark) and vesicular (pale, dark-rimmed, speckled) nuclei."""
    shape = layout.labels.shape
    vesicular = layout.per_nucleus(rng.random(layout.count) < rng.uniform(0, 1))
    strength = layout.per_nucleus(np.exp(0.15 * rng.standard_normal(layout.count)))
    grain = smooth_noise(rng, shape, rng.uniform(1.5, 3))
    dense = 1.05 + 0.15 * grain
    rim = np.exp(-((layout.depth / 1.5) ** 2))
    speckles = np.clip(smooth_noise(rng, shape, rng.uniform(2, 4)) - 0.5, 0, 2)
    pale = 0.4 + 0.45 * rim + 0.4 * speckles + 0.1 * grain
    return layout.inside * strength * (vesicular * pale + (1 - vesicular) * dense)


def _smudges(rng: np.random.Generator, nuclear: Field) -> Field:
    """Stain out of focus: halos of cytoplasm, and blots that are no nuclei."""
    halo = ndimage.gaussian_filter(nuclear, rng.uniform(3, 6), truncate=2)
    blots = np.clip(smooth_noise(rng, nuclear.shape, rng.uniform(10, 25)) - 0.7, 0, 1)
    return rng.uniform(0.05, 0.3) * halo + rng.uniform(0, 0.4) * blots


def _tissue(rng: np.random.Generator, shape: tuple[int, int], nuclear: Field) -> Field:
    """The tissue's own stain: patchy, fibrous and grained, with empty holes away from nuclei."""
    patches = 1 + 0.35 * smooth_noise(rng, shape, rng.uniform(15, 40))
    strands = rng.uniform(0, 1.5) * fibres(rng, shape, rng.uniform(3, 10))
    grain = 0.12 * smooth_noise(rng, shape, 2)
    holes = np.clip(2 * smooth_noise(rng, shape, rng.uniform(15, 30)) - 2, 0, 1)
    tissue = np.clip(patches + strands + grain, 0, None)
    return tissue * (1 - holes * np.clip(1 - 4 * nuclear, 0, 1))
