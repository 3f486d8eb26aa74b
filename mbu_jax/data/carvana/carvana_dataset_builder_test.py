"""The Carvana builder on its dummy data."""

from pathlib import Path

import numpy as np
from PIL import Image

from mbu_jax.data.carvana.carvana_dataset_builder import Builder
from mbu_jax.data.sources import open_source
from mbu_jax.data.splits import split_of

DUMMY = Path(__file__).parent / "dummy_data"


def test_scales_images_and_masks_to_the_paper_s_size(tmp_path):
    """Every mask is the nearest-pixel scaling written out, and its image went the same way."""
    source = open_source("carvana", "all", data_dir=DUMMY, prepared_dir=tmp_path)
    assert source.ids == sorted(path.stem for path in (DUMMY / "train").iterdir())
    for example in source:
        assert example["image"].shape == (640, 959, 3)
        assert example["mask"].shape == (640, 959)
        assert "instances" not in example
        with Image.open(DUMMY / "train_masks" / f"{example['id']}_mask.gif") as picture:
            mask = np.asarray(picture) != 0
        # Nearest pixel, pixel centres at one half: written out rather than asked of Pillow.
        rows = ((np.arange(640) + 0.5) * mask.shape[0] / 640).astype(int)
        columns = ((np.arange(959) + 0.5) * mask.shape[1] / 959).astype(int)
        np.testing.assert_array_equal(example["mask"], mask[rows][:, columns])
        # The dummy cars are red on a pale ground: the image has to have gone the mask's way.
        red = example["image"][..., 1] < 120
        assert np.mean(red == (example["mask"] == 1)) > 0.98


def test_all_views_of_a_car_are_in_one_split(tmp_path):
    """The split depends on the car, not on the view."""
    for split in ("train", "validation"):
        source = open_source("carvana", split, data_dir=DUMMY, prepared_dir=tmp_path)
        assert len(source) == 2
        assert {split_of(example_id.split("_")[0]) for example_id in source.ids} == {split}
    assert Builder.split_key("0a1b_07") == "0a1b"
