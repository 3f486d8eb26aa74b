"""A user's own images and masks, checked and prepared."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, override

import numpy as np
import tensorflow_datasets as tfds

from mbu_jax.data.builder import Record, SegmentationBuilder, SourceConfig
from mbu_jax.data.example import Example
from mbu_jax.data.folder import layout
from mbu_jax.data.folder.classes import read_labels
from mbu_jax.data.folder.palettes import Palettes, read_colours
from mbu_jax.data.frames import check_one_page, decode_frames
from mbu_jax.data.splits import Split
from mbu_jax.errors import InputError


class Builder(SegmentationBuilder):
    """TFDS builder of a folder; the layout and its rules are in this folder's README.

    Masks are stored with the numbers that they hold: what these mean depends on all of them, or on
    the network that is scored (`mbu_jax.data.folder.source`).
    """

    VERSION = tfds.core.Version("3.0.0")
    RELEASE_NOTES = {  # noqa: RUF012 (TFDS's own convention)
        "2.0.0": "Masks keep their stored numbers and are turned by EXIF; palettes must agree.",
        "3.0.0": "Masks of 2 and 4 bits keep their stored numbers, too.",
    }
    HOMEPAGE = ""

    def __init__(self, *, config: SourceConfig, **options: Any) -> None:
        self.HAS_INSTANCES = layout.has_instances(config.records[0])
        self._first_files: dict[int, str] = {}
        self._palettes = Palettes()
        self._pictures: dict[bytes, tuple[str, Split]] = {}
        super().__init__(config=config, **options)

    @classmethod
    @override
    def find_records(cls, data_dir: Path | None, prepared_dir: Path) -> list[Record]:
        """Pairs images with masks; see ``SegmentationBuilder.find_records``."""
        if data_dir is None:
            raise InputError(f"the dataset folder needs --data-dir; {layout.LAYOUT}")
        return layout.find_records(data_dir)

    @classmethod
    @override
    def split_records(cls, records: Sequence[Record]) -> dict[Split, list[Record]]:
        """Parts records by folder or by name; see ``SegmentationBuilder.split_records``."""
        return layout.split_records(records)

    @staticmethod
    @override
    def read(record: Record) -> Example:
        """Decodes an image and its mask; see ``SegmentationBuilder.read``."""
        frames = decode_frames(record.image.read(), record.image.label)
        check_one_page(frames.count, record.image.label)
        image = next(frames.images)
        (entry,) = record.masks
        labels = read_labels(entry.read(), entry.label)
        if labels.shape != image.shape[:2]:
            raise InputError(
                f"{entry.label} is {labels.shape[1]}x{labels.shape[0]} but its image is"
                f" {image.shape[1]}x{image.shape[0]}; replace the mask by one of the image's size"
            )
        if layout.has_instances(record):
            mask = (labels != 0).astype(np.uint8)
            return Example(id=record.id, image=image, mask=mask, instances=labels)
        if labels.max() > np.iinfo(np.uint8).max:
            raise InputError(
                f"{entry.label} has the value {labels.max()}; number the classes 0, 1, 2, …"
                " (objects that are numbered one by one belong in instances/ instead of masks/)"
            )
        return Example(id=record.id, image=image, mask=labels.astype(np.uint8))

    @override
    def check_example(self, record: Record, example: Example, split: Split) -> None:
        """Refuses one picture on both sides, and palettes that differ; see the base class."""
        (entry,) = record.masks
        # Objects that are numbered one by one may have other colours in every file.
        palettes = Palettes() if layout.has_instances(record) else self._palettes
        palettes.add(read_colours(entry.read(), entry.label), entry.label)
        image, mask = example["image"], example["mask"]
        picture = hashlib.sha256(str(image.shape).encode() + image.tobytes()).digest()
        for number in np.unique(mask).tolist():
            self._first_files.setdefault(number, entry.name)
        if image.min() == image.max():
            return  # empty fields of view are alike and give nothing away
        other, side = self._pictures.setdefault(picture, (record.image.label, split))
        if side != split:
            raise InputError(
                f"{other} and {record.image.label} are the same picture, one for training and one"
                " for validation; remove one of them"
            )

    @override
    def facts(self) -> dict[str, Any]:
        """The numbers in the masks, and what splits them; see ``SegmentationBuilder``."""
        return {
            "numbers": {str(number): self._first_files[number] for number in self._first_files},
            "split_by": layout.split_rule(self._records),
        }
