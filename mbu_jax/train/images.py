"""The images that a run trains on, and those that it is scored by."""

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbu_jax.data import Dataset, open_source, train_batches
from mbu_jax.data.pipeline import PreparedImages, epoch_length
from mbu_jax.errors import InputError
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
      InputError: for a folder that is no run, a run that does not name its data, a size out of
        range, data that cannot be used, or, unless ``data_dir`` is given, that have changed since
        the run.

    Example:
      >>> from mbu_jax.train.rundir import RunDirectory
      >>> config = {"dataset": "synthetic", "data_dir": None, "prepared_dir": None}
      >>> _ = RunDirectory("runs/scored").create_or_resume(config | {"data": {"image_size": None}})
      >>> len(images_of_run("runs/scored", "validation", classes=1))
      64
    """
    config = read_config(run)
    try:
        found = config["dataset"], config["data_dir"], config["prepared_dir"]
        trained_size = config["data"]["image_size"]
    except (LookupError, TypeError) as error:
        raise InputError(
            f"{Path(run, 'config.json')} lacks entries that name the run's data and their size; "
            "restore it or train again"
        ) from error
    source = open_source(
        dataset or found[0],
        split,
        data_dir=found[1] if data_dir is None else data_dir,
        prepared_dir=found[2],
        classes=classes,
    )
    facts = config.get("found")
    trained_on = facts.get("content") if isinstance(facts, dict) else None
    if data_dir is None and trained_on not in (None, source.facts.get("content")):
        raise InputError(
            f"the data of {run} have changed since it was trained; restore them, or name them with "
            "--data-dir as other data"
        )
    size = image_size or trained_size
    return PreparedImages(source, None if size is None else (size[0], size[1]))


def batches_seed(config: TrainConfig) -> int:
    """Choose the seed of a run's order of images and of their variation.

    Args:
      config: all options.

    Returns:
      The run's own seed; another one made of it where ``initial`` is given, or a run of the same
      seed would be trained further with the very crops that it has seen.

    Example:
      >>> batches_seed(TrainConfig(seed=3))
      3
    """
    if config.initial is None:
        return config.seed
    return int(np.random.SeedSequence([config.seed, 1]).generate_state(1)[0])


def statistics_batches(
    images: PreparedImages, config: TrainConfig, *, process_index: int = 0, process_count: int = 1
) -> Iterator[dict[str, Any]]:
    """Yield the batches that a run estimates its BatchNorm statistics from.

    Of few small crops, the statistics vary so much that Dice does by some hundredths.

    Args:
      images: those to train on.
      config: all options; ``recalibrate`` says how many batches, `varied_statistics` which.
      process_index: which of several processes asks for its share of every batch.
      process_count: how many there are.

    Yields:
      Batches of training images without variation, or as those of training, with a seed of their
      own. Where they are whole and without variation, none is taken twice but to fill the last
      batch, since the same again would add nothing.

    Example:
      >>> import dataclasses
      >>> from mbu_jax.data.pipeline import PipelineOptions
      >>> options = PipelineOptions(image_size=(32, 32), crop=(16, 16))
      >>> config = TrainConfig(train_images=20, batch_size=8, recalibrate=9, data=options)
      >>> _, images = open_images(config, "train")
      >>> crops = list(statistics_batches(images, config))
      >>> len(crops), crops[0]["image"].shape
      (9, (8, 16, 16, 3))
      >>> config = dataclasses.replace(config, recalibrate_varied=False)
      >>> whole = list(statistics_batches(images, config))
      >>> len(whole), whole[0]["image"].shape
      (3, (8, 32, 32, 3))
    """
    options, count = config.data, config.recalibrate
    if not config.varied_statistics:
        options = options.unvaried()
    if options == options.unvaried() and options.crop is None:
        count = min(count, epoch_length(images, config.batch_size, 1))
    batches = train_batches(
        images,
        options,
        batch_size=config.batch_size,
        seed=config.seed + 1,
        process_index=process_index,
        process_count=process_count,
    )
    with contextlib.closing(batches):
        yield from itertools.islice(batches, count)


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
