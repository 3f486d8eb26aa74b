"""Carvana: photographs of cars from 16 sides, at the 959x640 of the paper."""

from pathlib import Path
from typing import override

from mbu_jax.data.builder import Record, SegmentationBuilder
from mbu_jax.data.example import Example
from mbu_jax.data.manual import ArchivePair, find_pairs, read_scaled

HEIGHT, WIDTH = 640, 959


class Builder(SegmentationBuilder):
    """TFDS builder of Carvana; what is done to the images is in this folder's README."""

    HOMEPAGE = "https://www.kaggle.com/c/carvana-image-masking-challenge"
    HAS_INSTANCES = False
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Log in at https://www.kaggle.com/c/carvana-image-masking-challenge/data, accept the rules,
    download train.zip and train_masks.zip, and give their folder with --data-dir.
    """

    @classmethod
    @override
    def find_records(cls, data_dir: Path | None, prepared_dir: Path) -> list[Record]:
        """Pairs photographs with masks; see ``SegmentationBuilder.find_records``."""
        return find_pairs(
            data_dir or prepared_dir / "downloads" / "manual",
            [ArchivePair("train", "train_masks")],
            mask_ending="_mask.gif",
            instructions=cls.MANUAL_DOWNLOAD_INSTRUCTIONS,
        )

    @staticmethod
    @override
    def read(record: Record) -> Example:
        """Decodes and scales one pair; see ``SegmentationBuilder.read``."""
        return read_scaled(record, (HEIGHT, WIDTH))

    @staticmethod
    @override
    def split_key(example_id: str) -> str:
        """The car: its 16 views, ``<car>_01`` to ``<car>_16``, stay in one split."""
        return example_id.partition("_")[0]
