"""Datasets that a person must fetch by hand: finding their archives, pairing image and mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from mbu_jax.data.archives import Entry, list_folder, list_zip
from mbu_jax.data.builder import Record
from mbu_jax.data.example import Example
from mbu_jax.data.reading import read_image, read_mask, scale_image, scale_mask
from mbu_jax.errors import InputError


@dataclass(frozen=True)
class ArchivePair:
    """An archive of images and the archive of their masks; names without ``.zip``.

    Attributes:
      images: the images' archive, or its unpacked folder.
      masks: the masks' archive, or its unpacked folder.
      required: whether the dataset can be prepared without this pair.
    """

    images: str
    masks: str
    required: bool = True


def find_pairs(
    folder: Path, pairs: Sequence[ArchivePair], mask_ending: str, instructions: str
) -> list[Record]:
    """Pairs every image ``<id>.jpg`` with its mask ``<id><mask_ending>``.

    Args:
      folder: where the archives or their unpacked folders lie.
      pairs: what to look for; an optional pair of which nothing is there is left out.
      mask_ending: what a mask's file name has after the id.
      instructions: how to get the archives, for the error that tells of a missing one.

    Returns:
      the records in the order of their ids.

    Raises:
      InputError: an archive is missing or damaged, an image has no mask, or an id comes twice.
    """
    help_text = " ".join(instructions.split())
    records: dict[str, Record] = {}
    for pair in pairs:
        images, masks = _files(folder, pair.images), _files(folder, pair.masks)
        if images is None and masks is None and not pair.required:
            continue
        for name, files in ((pair.images, images), (pair.masks, masks)):
            if files is None:
                raise InputError(f"{folder} lacks {name}.zip (or a folder {name}). {help_text}")
        truth = _by_id(masks or [], mask_ending)
        for example_id, image in _by_id(images or [], ".jpg").items():
            if example_id not in truth:
                raise InputError(
                    f"{image.label} has no mask {example_id}{mask_ending} in {pair.masks};"
                    " add the mask or remove the image"
                )
            if example_id in records:
                raise InputError(f"{image.label} repeats the id {example_id}; remove one of them")
            records[example_id] = Record(example_id, image, (truth[example_id],))
    if not records:
        raise InputError(f"{folder} holds archives without any .jpg image. {help_text}")
    return [records[example_id] for example_id in sorted(records)]


def read_scaled(record: Record, size: tuple[int, int]) -> Example:
    """Decodes a pair and scales both to one size, the image smoothly, the mask by nearest pixel.

    Args:
      record: an image and its one mask.
      size: (H, W) of the result.

    Returns:
      the example, without instances.

    Raises:
      InputError: a file is damaged, or the mask's own size is not the image's.
    """
    image = read_image(record.image.read(), record.image.label)
    mask = read_mask(record.masks[0].read(), record.masks[0].label)
    if mask.shape != image.shape[:2]:
        raise InputError(
            f"{record.masks[0].label} is {mask.shape[1]}x{mask.shape[0]} but its image is"
            f" {image.shape[1]}x{image.shape[0]}; replace the mask by one of the image's size"
        )
    return Example(
        id=record.id,
        image=scale_image(image, size),
        mask=scale_mask(mask, size).astype(np.uint8),
    )


def _files(folder: Path, name: str) -> list[Entry] | None:
    archive = folder / f"{name}.zip"
    if archive.is_file():
        return list_zip(archive)
    return list_folder(folder / name, depth=1) if (folder / name).is_dir() else None


def _by_id(entries: Sequence[Entry], ending: str) -> dict[str, Entry]:
    by_id: dict[str, Entry] = {}
    for entry in entries:
        file_name = PurePosixPath(entry.name).name
        if file_name.lower().endswith(ending):
            example_id = file_name[: -len(ending)]
            if example_id in by_id:
                raise InputError(f"{entry.label} repeats the id {example_id}; remove one of them")
            by_id[example_id] = entry
    return by_id
