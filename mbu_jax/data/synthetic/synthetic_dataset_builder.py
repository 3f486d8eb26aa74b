"""TFDS builder that writes the generated nuclei to ArrayRecord files; it needs no TensorFlow."""

import dataclasses
import functools
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from mbu_jax.data.splits import SPLITS
from mbu_jax.data.synthetic.source import (
    TRAIN_EXAMPLES,
    VALIDATION_EXAMPLES,
    SyntheticSource,
    synthetic_source,
)

_SHARD_EXAMPLES = 512


@dataclasses.dataclass(eq=False)
class SyntheticConfig(tfds.core.BuilderConfig):
    """The arguments of `synthetic_source`, under a name."""

    name: str
    seed: int = 0
    image_size: tuple[int, int] = (128, 128)
    train_examples: int = TRAIN_EXAMPLES
    validation_examples: int = VALIDATION_EXAMPLES

    def source(self, split: str) -> SyntheticSource:
        """Opens the examples of a split.

        Args:
          split: "train" or "validation".

        Returns:
          The source that the split is written from.
        """
        return synthetic_source(
            split,
            seed=self.seed,
            image_size=self.image_size,
            train_examples=self.train_examples,
            validation_examples=self.validation_examples,
        )


class Builder(tfds.core.ShardBasedBuilder):
    """The examples of `synthetic_source`, bit for bit, as a TFDS dataset named "synthetic".

    Example:
      >>> import tempfile
      >>> folder = tempfile.TemporaryDirectory()
      >>> config = SyntheticConfig(name="tiny", train_examples=2, validation_examples=1)
      >>> builder = Builder(config=config, data_dir=folder.name, file_format="array_record")
      >>> builder.download_and_prepare()
      >>> builder.as_data_source("train")[0]["image"].shape
      (128, 128, 3)
      >>> folder.cleanup()
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 (TFDS's own convention)
    BUILDER_CONFIGS = [SyntheticConfig(name="small")]  # noqa: RUF012
    # TFDS looks for checksums.tsv beside it, with a package that it forgets to require.
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.image_size
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(*size, 3), encoding_format="png"),
            "mask": tfds.features.Image(shape=(*size, 1), encoding_format="png"),
            # Not a 16-bit PNG: TFDS decodes those through OpenCV only.
            "instances": tfds.features.Tensor(shape=size, dtype=np.uint16, encoding="zlib"),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "mask"),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable[[], Any]]]:
        shards: dict[str, list[Callable[[], Any]]] = {}
        for split in SPLITS:
            source = self.builder_config.source(split)
            parts = itertools.batched(range(len(source)), _SHARD_EXAMPLES)
            shards[split] = [functools.partial(_encode, source, part) for part in parts]
        return shards

    def _log_download_bytes(self) -> None:
        """Says nothing: TFDS prints to stdout here."""

    def _log_download_done(self) -> None:
        """Says nothing: TFDS prints to stdout here."""


def _encode(
    source: SyntheticSource, positions: Sequence[int]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for position in tqdm(positions, desc="generating nuclei", unit=" images"):
        example = source[position]
        pictures = {key: _to_png(example[key]) for key in ("image", "mask")}
        yield example["id"], {**example, **pictures}


def _to_png(array: np.ndarray) -> io.BytesIO:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    buffer.seek(0)
    return buffer
