import numpy as np
import pytest

from mbu_jax.data import open_source
from mbu_jax.train.subset import FirstImages


def test_the_first_images_are_a_source():
    source = open_source("synthetic", "train")
    images = FirstImages(source, 3)
    assert len(images) == 3
    assert [example["id"] for example in images] == list(source.ids[:3]) == list(images.ids)
    np.testing.assert_array_equal(images[2]["image"], source[2]["image"])
    np.testing.assert_array_equal(images[-1]["mask"], source[2]["mask"])
    with pytest.raises(IndexError):
        images[3]
