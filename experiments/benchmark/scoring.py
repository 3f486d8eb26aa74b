"""How well every row segments: its masks of a trained network's validation images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.benchmark.config import available_cores
from experiments.benchmark.job import Job
from experiments.benchmark.materials import Materials
from experiments.benchmark.nursery import Nursery
from experiments.benchmark.processes import RowFailed, tell_left_out, workers
from experiments.benchmark.rows import Row
from mbu_jax.data.pipeline import PreparedImages
from mbu_jax.errors import InputError
from mbu_jax.train.metrics import SegmentationScores, confusion_counts


def score(
    rows: Sequence[Row],
    file: Path,
    truth: NDArray,
    materials: Materials,
    nursery: Nursery,
    left_out: list[str],
) -> dict[str, Any]:
    """Let every trained network segment images on its runtime, and score the masks.

    Args:
      rows: of which those with random weights are passed over.
      file: of the images, from `write_images`.
      truth: their masks, uint8 [N, H, W].
      materials: of the benchmark.
      nursery: for the rows' processes.
      left_out: gets a line for each row that fails.

    Returns:
      Under ``rows`` the scores of each, as `SegmentationScores.result` states them; besides the
      images' ``size``, height and width.
    """
    found = {}
    trained = [row for row in rows if materials.networks[row.network].trained]
    for row in tqdm(trained, desc="scoring", unit="row", leave=False, disable=None):
        material, model = materials.model(row)
        masks = materials.folder / "masks.npy"
        job = Job(
            row=row.name,
            runtime=row.runtime,
            engine=row.engine,
            model=str(model),
            unet=material.unet,
            images=str(file),
            batch=1,
            cores=available_cores(),
            masks=str(masks),
        )
        try:
            with workers([job], nursery):
                predicted = np.load(masks, allow_pickle=False)
        except RowFailed as failure:
            tell_left_out(failure, "the scores", left_out)
            continue
        scores = SegmentationScores()
        foreground = max(1, material.unet["classes"] - 1)
        for ours, theirs in zip(predicted, truth, strict=True):
            counts = confusion_counts(ours[None], theirs[None], foreground_classes=foreground)
            scores.add(counts)
        found[row.name] = scores.result()
    return {"size": list(truth.shape[1:]), "rows": found}


def write_images(images: PreparedImages, folder: Path) -> tuple[Path, NDArray]:
    """Write images to a file for other processes.

    Args:
      images: with their masks.
      folder: for the file.

    Returns:
      The file, with uint8 [N, H, W, C], and the true masks, uint8 [N, H, W].

    Raises:
      InputError: where they differ in size.
    """
    first = images[0]
    file = folder / "scored.npy"
    shape = (len(images), *first["image"].shape)
    pixels = open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    truth = np.empty(shape[:3], np.uint8)
    for index in range(len(images)):
        example = images[index]
        if example["image"].shape != shape[1:]:
            raise InputError(
                f"images {first['id']} and {example['id']} differ in size; --score needs a network "
                "that was trained on images of one --image-size"
            )
        pixels[index], truth[index] = example["image"], example["mask"]
    pixels.flush()
    return file, truth
