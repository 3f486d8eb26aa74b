"""The TFDS dataset holds the very examples of the generator."""

import numpy as np
import pytest

from mbu_jax.data.synthetic import synthetic_source
from mbu_jax.data.synthetic.synthetic_dataset_builder import Builder, SyntheticConfig


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """A small dataset, prepared once."""
    config = SyntheticConfig(
        name="tiny", seed=3, image_size=(48, 64), train_examples=5, validation_examples=2
    )
    builder = Builder(
        config=config, data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record"
    )
    builder.download_and_prepare()
    return builder


def test_name_and_splits(builder: Builder) -> None:
    """The folder is TFDS's own convention: name, splits, ArrayRecord shards."""
    assert builder.name == "synthetic"
    assert {name: info.num_examples for name, info in builder.info.splits.items()} == {
        "train": 5,
        "validation": 2,
    }
    assert list(builder.data_path.glob("*.array_record*"))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_examples_equal_the_generated_ones(builder: Builder, split: str) -> None:
    """What is read back is what the generator makes, bit for bit."""
    source = synthetic_source(
        split, seed=3, image_size=(48, 64), train_examples=5, validation_examples=2
    )
    stored = builder.as_data_source(split)
    assert len(stored) == len(source)
    for read, generated in zip(stored, source, strict=True):
        assert read["id"].decode() == generated["id"]
        assert read["image"].dtype == np.uint8
        assert read["instances"].dtype == np.uint16
        np.testing.assert_array_equal(read["image"], generated["image"])
        np.testing.assert_array_equal(read["mask"][..., 0], generated["mask"])
        np.testing.assert_array_equal(read["instances"], generated["instances"])
        assert generated["mask"].any()


def test_default_config_has_the_documented_sizes() -> None:
    """512 training and 64 validation images of 128x128."""
    default = Builder.BUILDER_CONFIGS[0]
    assert (default.train_examples, default.validation_examples) == (512, 64)
    assert default.image_size == (128, 128)
