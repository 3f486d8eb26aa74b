"""The ISIC builder on its dummy data."""

import shutil
from pathlib import Path

import numpy as np

from mbu_jax.data.sources import open_source

DUMMY = Path(__file__).parent / "dummy_data"


def test_scales_every_image_to_the_paper_s_size(tmp_path):
    """Images of several sizes, from both archives, come out at one."""
    source = open_source("isic", "all", data_dir=DUMMY, prepared_dir=tmp_path)
    assert source.ids == ["ISIC_0000000", "ISIC_0000003", "ISIC_0000009", "ISIC_0000012"]
    for example in source:
        assert example["image"].shape == (480, 640, 3)
        assert example["mask"].shape == (480, 640)
        assert set(np.unique(example["mask"])) == {0, 1}
        # The dummy lesions are dark on pale skin.
        dark = example["image"][..., 0] < 160
        assert np.mean(dark == (example["mask"] == 1)) > 0.97


def test_the_later_archives_are_optional(tmp_path):
    """The training pair alone is a dataset."""
    for path in DUMMY.glob("*Training*"):
        shutil.copytree(path, tmp_path / "source" / path.name)
    source = open_source("isic", "all", data_dir=tmp_path / "source", prepared_dir=tmp_path)
    assert source.ids == ["ISIC_0000000", "ISIC_0000003", "ISIC_0000009"]


def test_the_manual_directory_is_tfds_s_own(tmp_path):
    """Without data_dir the archives lie where TFDS expects manual downloads."""
    shutil.copytree(DUMMY, tmp_path / "downloads" / "manual")
    assert len(open_source("isic", "all", prepared_dir=tmp_path)) == 4
