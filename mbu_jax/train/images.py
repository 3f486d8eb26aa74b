"""The images that a run trains on, and those that it is scored by."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mbu_jax.data import Dataset, open_source
from mbu_jax.data.pipeline import PreparedImages
from mbu_jax.train.config import TrainConfig
from mbu_jax.train.rundir import read_config
from mbu_jax.train.subset import FirstImages


def open_images(config: TrainConfig, split: str) -> tuple[Dataset, PreparedImages]:
    """Open a split of a run's dataset.

    Args:
      config: all options.
      split: train or validation.

    Returns:
      The dataset, and the split's images as the options prepare them; of those to train on the
      first ones where ``train_images`` says how many.

    Raises:
      InputError: for data that cannot be used, or that are fewer than ``train_images``.

    Example:
      >>> from mbu_jax.train.config import PRESETS
      >>> dataset, images = open_images(PRESETS["quick"], "validation")
      >>> dataset.classes, images[0]["image"].dtype
      (1, dtype('uint8'))
    """
    dataset = source = open_source(
        config.dataset, split, data_dir=config.data_dir, prepared_dir=config.prepared_dir
    )
    if split == "train" and config.train_images is not None:
        source = FirstImages(dataset, config.train_images)
    return dataset, PreparedImages(source, config.data.image_size, config.data.cache_gib)


def images_of_run(
    run: str | os.PathLike[str],
    split: str,
    *,
    classes: int,
    dataset: str | None = None,
    data_dir: Path | None = None,
    image_size: Sequence[int] | None = None,
) -> PreparedImages:
    """Open images to score a finished run's network on.

    Args:
      run: its directory.
      split: train, validation or all.
      classes: of its network, which the masks must fit.
      dataset: layout of ``data_dir``; by default that of the run's own data.
      data_dir: other data; by default what the run was trained on.
      image_size: height and width to resize to; by default as in training.

    Returns:
      The images.

    Raises:
      InputError: for a folder that is no run, or data that cannot be used.

    Example:
      >>> from mbu_jax.train.rundir import RunDirectory
      >>> config = {"dataset": "synthetic", "data_dir": None, "prepared_dir": None}
      >>> _ = RunDirectory("runs/scored").create_or_resume(config | {"data": {"image_size": None}})
      >>> len(images_of_run("runs/scored", "validation", classes=1))
      64
    """
    config = read_config(run)
    source = open_source(
        dataset or config["dataset"],
        split,
        data_dir=config["data_dir"] if data_dir is None else data_dir,
        prepared_dir=config["prepared_dir"],
        classes=classes,
    )
    size = image_size or config["data"]["image_size"]
    return PreparedImages(source, None if size is None else (size[0], size[1]))


def some_images(images: PreparedImages, count: int = 16) -> list[np.ndarray]:
    """Take images from all over a dataset.

    Args:
      images: of `open_images`.
      count: how many.

    Returns:
      Images uint8 [H, W, C], evenly spaced; all of them where there are fewer.

    Example:
      >>> from mbu_jax.train.config import PRESETS
      >>> _, images = open_images(PRESETS["quick"], "validation")
      >>> len(some_images(images, 3))
      3
    """
    places = np.unique(np.linspace(0, len(images) - 1, count).round().astype(int))
    return [images[int(place)]["image"] for place in places]
