"""One generated example: a pure function of the seed, the split and the index."""

import numpy as np

from mbu_jax.data.example import Example
from mbu_jax.data.splits import SPLITS
from mbu_jax.data.synthetic.bright_field import paint_bright_field
from mbu_jax.data.synthetic.fluorescence import paint_fluorescence
from mbu_jax.data.synthetic.histology import paint_histology
from mbu_jax.errors import InputError

SMALLEST_SIDE = 32

_PAINTERS = {
    "fluorescence": paint_fluorescence,
    "histology": paint_histology,
    "bright_field": paint_bright_field,
}
MODALITIES = tuple(_PAINTERS)
_SHARES = (0.8, 0.12, 0.08)


def generate_example(
    split: str,
    index: int,
    *,
    seed: int = 0,
    image_size: tuple[int, int] = (128, 128),
    modality: str | None = None,
) -> Example:
    """Generates a microscope image of nuclei with its exact truth.

    Args:
      split: "train" or "validation"; the two share no random numbers.
      index: of the example in its split, from 0.
      seed: another seed gives another data set.
      image_size: (H, W) in pixels. A larger image shows more nuclei, not larger ones.
      modality: one of `MODALITIES`; None draws it, 80 % fluorescence, 12 % histology (H&E),
        8 % bright field.

    Returns:
      The example; where nuclei overlap, a pixel belongs to the one on top.

    Raises:
      InputError: for an unknown split or modality, a negative seed or too small an image.

    Example:
      >>> example = generate_example("train", 0)
      >>> example["image"].shape, example["id"]
      ((128, 128, 3), 'train-000000')
    """
    if split not in SPLITS:
        raise InputError(f"split {split!r} of synthetic does not exist; choose from {SPLITS}")
    if modality is not None and modality not in MODALITIES:
        raise InputError(f"modality {modality!r} does not exist; choose from {MODALITIES}")
    if seed < 0:
        raise InputError(f"seed is {seed}; give a number of at least 0")
    if min(image_size) < SMALLEST_SIDE:
        raise InputError(f"image_size is {image_size}; give at least {SMALLEST_SIDE} pixels a side")
    stream = np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), index))
    rng = np.random.Generator(np.random.Philox(stream))
    drawn = str(rng.choice(MODALITIES, p=_SHARES))
    image, layout = _PAINTERS[modality or drawn](rng, image_size)
    return Example(
        id=example_id(split, index),
        image=np.clip(np.rint(255 * image), 0, 255).astype(np.uint8),
        mask=layout.inside.astype(np.uint8),
        instances=layout.labels,
    )


def example_id(split: str, index: int) -> str:
    """Names an example: uniquely in both splits together, and sorted as the examples are.

    Args:
      split: "train" or "validation".
      index: of the example in its split.

    Returns:
      The id, such as "train-000012".
    """
    return f"{split}-{index:06d}"
