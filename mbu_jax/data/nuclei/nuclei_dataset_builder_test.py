"""The nuclei builder on its dummy data, against Pillow and NumPy alone."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mbu_jax.data.nuclei.nuclei_dataset_builder import Builder
from mbu_jax.data.sources import open_source
from mbu_jax.data.splits import split_of

DUMMY = Path(__file__).parent / "dummy_data"
FOLDERS = sorted((DUMMY / "stage1_train").iterdir())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this module's dataset is prepared, once."""
    return tmp_path_factory.mktemp("prepared")


def test_reads_back_what_the_files_hold(prepared):
    """Images, merged masks and instance labels are those of the files."""
    source = open_source("nuclei", "all", data_dir=DUMMY, prepared_dir=prepared)
    assert source.ids == [folder.name for folder in FOLDERS]
    assert len(source) == len(FOLDERS) == 5
    for example, folder in zip(source, FOLDERS, strict=True):
        image = np.asarray(Image.open(folder / "images" / f"{folder.name}.png"))
        assert image.shape[2] == 4
        masks = [np.asarray(Image.open(m)) > 0 for m in sorted((folder / "masks").iterdir())]
        # The first mask that claims a pixel owns it: paint backwards, each over the later ones.
        instances = np.zeros(image.shape[:2], np.uint16)
        for number, mask in reversed(list(enumerate(masks, start=1))):
            instances[mask] = number
        assert example["id"] == folder.name
        np.testing.assert_array_equal(example["image"], image[..., :3])
        np.testing.assert_array_equal(example["instances"], instances)
        np.testing.assert_array_equal(example["mask"], np.any(masks, axis=0))
        assert [example[k].dtype for k in ("image", "mask", "instances")] == [
            np.uint8,
            np.uint8,
            np.uint16,
        ]


def test_splits_follow_the_ids(prepared):
    """Each split holds exactly the ids that ``split_of`` gives it, in order."""
    for split in ("train", "validation"):
        source = open_source("nuclei", split, data_dir=DUMMY, prepared_dir=prepared)
        assert source.ids == [f.name for f in FOLDERS if split_of(f.name) == split]
        assert [example["id"] for example in source] == source.ids
        assert 1 <= len(source) < len(FOLDERS)


def test_tiles_of_one_field_are_in_one_split(tmp_path):
    """Whatever their own ids say."""
    field = np.random.default_rng().integers(0, 256, (64, 64 * 7, 3), np.uint8)
    ids = [f"tile-{i}" for i in range(7)]
    assert len({split_of(i) for i in ids}) == 2
    for left, example_id in enumerate(ids):
        tile = field[:, 64 * left : 64 * left + 65][:, :64]
        if left:  # goes on as its neighbour ends
            tile[:, 0] = field[:, 64 * left - 1]
        for kind, array in (("images", tile), ("masks", tile[..., 0])):
            path = tmp_path / "stage1_train" / example_id / kind / f"{example_id}.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(array).save(path)
    sides = Builder.split_records(Builder.find_records(tmp_path, tmp_path))
    assert [r.id for r in sides[split_of(ids[0])]] == ids


def test_is_a_tfds_dataset_with_its_metadata(prepared):
    """TFDS itself opens the result and finds the folder's README, citation and tags."""
    open_source("nuclei", "all", data_dir=DUMMY, prepared_dir=prepared)
    (directory,) = (prepared / "nuclei").glob("*/*.*.*")
    info = tfds.builder_from_directory(directory).info
    assert info.name == "nuclei"
    assert info.features["instances"].np_dtype == np.uint16
    assert info.file_format == tfds.core.FileFormat.ARRAY_RECORD
    assert "BBBC038" in info.description
    assert "caicedo2019" in info.citation
    assert set(Builder.get_metadata().tags) <= set(_valid_tags())


def _valid_tags() -> list[str]:
    from tensorflow_datasets.core import dataset_metadata

    return dataset_metadata.valid_tags()
