"""Nuclei in microscope images: the training set of the 2018 Data Science Bowl (BBBC038)."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import override

import numpy as np
import tensorflow_datasets as tfds

from mbu_jax.data.archives import Entry, list_folder, list_zip
from mbu_jax.data.builder import Record, SegmentationBuilder
from mbu_jax.data.download import download
from mbu_jax.data.example import Example
from mbu_jax.data.nuclei.fields import find_fields
from mbu_jax.data.reading import read_image, read_mask
from mbu_jax.data.splits import SPLITS, Split, split_of
from mbu_jax.errors import InputError

ARCHIVE_URL = "https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip"
ARCHIVE_NAME = "stage1_train.zip"
FOLDER_NAME = "stage1_train"

_LAYOUT = re.compile(r"((?:.*/)?([^/]+))/(images|masks)/[^/]+\.png", re.IGNORECASE)
_PUBLIC_ID = re.compile("[0-9a-f]{64}")
_REMEDY = (
    f"give --data-dir {ARCHIVE_NAME}, its folder, or an unpacked copy with <id>/images/<id>.png"
    " and <id>/masks/*.png"
)


class Builder(SegmentationBuilder):
    """TFDS builder of the nuclei; the layout and its rules are in this folder's README."""

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {  # noqa: RUF012 (TFDS's own convention)
        "2.0.0": "Keeps the tiles of one field of view in one split.",
        "1.1.0": "States its content.",
    }
    HOMEPAGE = "https://bbbc.broadinstitute.org/BBBC038"
    HAS_INSTANCES = True

    @classmethod
    @override
    def find_records(cls, data_dir: Path | None, prepared_dir: Path) -> list[Record]:
        """Lists the images with their nuclei; see ``SegmentationBuilder.find_records``."""
        if data_dir is not None:
            return _records(_entries(data_dir), str(data_dir))
        archive = prepared_dir / "downloads" / cls.name / ARCHIVE_NAME
        if not archive.is_file():
            download(ARCHIVE_URL, archive, check=_check_public)
        return _records(list_zip(archive), str(archive))

    @classmethod
    @override
    def split_records(cls, records: Sequence[Record]) -> dict[Split, list[Record]]:
        """Parts records by field of view; see ``SegmentationBuilder.split_records``."""
        field = find_fields((r.id, read_image(r.image.read(), r.image.label)) for r in records)
        return {s: [r for r in records if split_of(field[r.id]) == s] for s in SPLITS}

    @staticmethod
    @override
    def read(record: Record) -> Example:
        """Decodes an image and numbers its nuclei; see ``SegmentationBuilder.read``."""
        image = read_image(record.image.read(), record.image.label)
        instances = _label(record, image.shape[:2])
        mask = (instances != 0).astype(np.uint8)
        return Example(id=record.id, image=image, mask=mask, instances=instances)


def _label(record: Record, size: tuple[int, ...]) -> np.ndarray:
    """Merges masks of one nucleus each: a pixel that two claim goes to the first by name."""
    limit = np.iinfo(np.uint16).max
    if len(record.masks) > limit:
        raise InputError(
            f"{record.image.label} has {len(record.masks)} masks, more than {limit};"
            " cut the image into parts"
        )
    instances = np.zeros(size, np.uint16)
    count = 0
    for entry in record.masks:
        mask = read_mask(entry.read(), entry.label)
        if mask.shape != size:
            raise InputError(
                f"{entry.label} is {mask.shape[1]}x{mask.shape[0]} but its image is"
                f" {size[1]}x{size[0]}; replace the mask by one of the image's size"
            )
        new = mask & (instances == 0)
        if new.any():
            count += 1
            instances[new] = count
    return instances


def _entries(path: Path) -> list[Entry]:
    """The files at the place that the user named: an archive, or a folder around the ids."""
    if (path / ARCHIVE_NAME).is_file():
        return list_zip(path / ARCHIVE_NAME)
    if path.is_dir():
        inner = path / FOLDER_NAME
        return list_folder(inner if inner.is_dir() else path, depth=3)
    if not path.exists():
        raise InputError(f"{path} does not exist; {_REMEDY}")
    return list_zip(path)


def _records(entries: Iterable[Entry], place: str) -> list[Record]:
    """Groups files by id, and refuses what the layout does not allow."""
    images: dict[str, list[Entry]] = defaultdict(list)
    masks: dict[str, list[Entry]] = defaultdict(list)
    ids: dict[str, str] = {}
    for entry in entries:
        if match := _LAYOUT.fullmatch(entry.name):
            folder, example_id, kind = match.groups()
            (images if kind.lower() == "images" else masks)[folder].append(entry)
            if ids.setdefault(example_id, folder) != folder:
                raise InputError(
                    f"{place} has the id {example_id} twice, in {ids[example_id]} and {folder};"
                    " remove or rename one"
                )
    if not ids:
        raise InputError(f"{place} holds no <id>/images/*.png; {_REMEDY}")
    for example_id, folder in ids.items():
        if len(images[folder]) != 1:
            raise InputError(
                f"{place}: {folder}/images holds {len(images[folder])} PNG files, not one;"
                " leave exactly the image there"
            )
        if not masks[folder]:
            raise InputError(
                f"{place}: the image {example_id} has no masks; add PNG files to {folder}/masks"
                " or remove the image"
            )
    return [Record(i, images[ids[i]][0], tuple(masks[ids[i]])) for i in sorted(ids)]


def _check_public(archive: Path) -> None:
    """No checksum of the public archive is published, so its content has to vouch for it."""
    for record in _records(list_zip(archive), ARCHIVE_URL):
        if not _PUBLIC_ID.fullmatch(record.id):
            raise InputError(
                f"{ARCHIVE_URL} served something else: the id {record.id} is not 64 hex digits;"
                f" {_REMEDY}"
            )
