"""ISIC 2018 task 1: skin lesions, at the 640x480 of the paper."""

from pathlib import Path
from typing import override

from mbu_jax.data.builder import Record, SegmentationBuilder
from mbu_jax.data.example import Example
from mbu_jax.data.manual import ArchivePair, find_pairs, read_scaled

HEIGHT, WIDTH = 480, 640


class Builder(SegmentationBuilder):
    """TFDS builder of ISIC 2018; what is done to the images is in this folder's README."""

    HOMEPAGE = "https://challenge.isic-archive.com/data/#2018"
    HAS_INSTANCES = False
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    From https://challenge.isic-archive.com/data/#2018 download
    ISIC2018_Task1-2_Training_Input.zip and ISIC2018_Task1_Training_GroundTruth.zip (and, if you
    like, the Validation and Test pairs), and give their folder with --data-dir.
    """

    @classmethod
    @override
    def find_records(cls, data_dir: Path | None, prepared_dir: Path) -> list[Record]:
        """Pairs photographs with masks; see ``SegmentationBuilder.find_records``."""
        return find_pairs(
            data_dir or prepared_dir / "downloads" / "manual",
            [
                ArchivePair(
                    f"ISIC2018_Task1-2_{part}_Input",
                    f"ISIC2018_Task1_{part}_GroundTruth",
                    required=part == "Training",
                )
                for part in ("Training", "Validation", "Test")
            ],
            mask_ending="_segmentation.png",
            instructions=cls.MANUAL_DOWNLOAD_INSTRUCTIONS,
        )

    @staticmethod
    @override
    def read(record: Record) -> Example:
        """Decodes and scales one pair; see ``SegmentationBuilder.read``."""
        return read_scaled(record, (HEIGHT, WIDTH))
