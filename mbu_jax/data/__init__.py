"""Datasets of images and masks, and the batches made of them."""

from mbu_jax.data.augment import AugmentOptions
from mbu_jax.data.example import Example
from mbu_jax.data.pipeline import PipelineOptions, epoch_length, eval_batches, train_batches
from mbu_jax.data.sources import DATASETS, Dataset, Source, open_source
from mbu_jax.data.splits import SPLITS, VALIDATION_FRACTION, split_of

__all__ = [
    "DATASETS",
    "SPLITS",
    "VALIDATION_FRACTION",
    "AugmentOptions",
    "Dataset",
    "Example",
    "PipelineOptions",
    "Source",
    "epoch_length",
    "eval_batches",
    "open_source",
    "split_of",
    "train_batches",
]
