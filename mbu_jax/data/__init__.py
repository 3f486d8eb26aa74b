"""Datasets of images and masks."""

from mbu_jax.data.example import Example
from mbu_jax.data.sources import DATASETS, Source, open_source
from mbu_jax.data.splits import SPLITS, VALIDATION_FRACTION, split_of

__all__ = [
    "DATASETS",
    "SPLITS",
    "VALIDATION_FRACTION",
    "Example",
    "Source",
    "open_source",
    "split_of",
]
