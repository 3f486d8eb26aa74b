"""What the dataset builders share: records in, a prepared ArrayRecord dataset out."""

import abc
import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from PIL import Image
from tqdm import tqdm

from mbu_jax.data.archives import Entry, fingerprint
from mbu_jax.data.example import Example
from mbu_jax.data.splits import SPLITS, Split, split_of
from mbu_jax.errors import InputError

# TFDS keeps a whole shard in memory while it counts what it wrote.
_SHARD_EXAMPLES = 64


@dataclasses.dataclass(frozen=True)
class Record:
    """The files of one example.

    Attributes:
      id: the example's name, unique in the dataset.
      image: the picture's file.
      masks: the files of its masks, in the order of their names; at least one.
    """

    id: str
    image: Entry
    masks: tuple[Entry, ...]


@dataclasses.dataclass(eq=False)
class SourceConfig(tfds.core.BuilderConfig):
    """Where a dataset is prepared from; ``name`` is the fingerprint of the records' files."""

    name: str
    records: Sequence[Record] = dataclasses.field(default=(), repr=False)


class SegmentationBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """A TFDS builder of images and masks that needs no TensorFlow.

    It is shard-based because the generator-based kind sorts its examples, and past 1 GB spills
    them to disk through TensorFlow.
    """

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {"1.1.0": "States its content."}  # noqa: RUF012 (TFDS's own convention)
    HOMEPAGE: str
    HAS_INSTANCES: bool
    # TFDS looks for checksums.tsv beside it, with a package that it forgets to require.
    code_path = None

    _records: Sequence[Record]
    _content: Any  # a hash
    _bar: tqdm

    @classmethod
    @abc.abstractmethod
    def find_records(cls, data_dir: Path | None, prepared_dir: Path) -> list[Record]:
        """Lists the examples of a source.

        Args:
          data_dir: where the user says the source is; None for the dataset's own place.
          prepared_dir: the root folder of prepared datasets, downloads and manual archives.

        Returns:
          the records in the order of their ids, at least one.

        Raises:
          InputError: the source is missing, incomplete, or not laid out as documented.
        """

    @staticmethod
    @abc.abstractmethod
    def read(record: Record) -> Example:
        """Decodes one example and checks it.

        Args:
          record: where the example's files are.

        Returns:
          the example.

        Raises:
          InputError: a file is damaged, or a mask does not fit its image.
        """

    @staticmethod
    def split_key(example_id: str) -> str:
        """The part of an id that decides its split: all of it, unless a dataset has groups.

        Args:
          example_id: an example's id.

        Returns:
          what ``split_of`` hashes.
        """
        return example_id

    @classmethod
    def split_records(cls, records: Sequence[Record]) -> dict[Split, list[Record]]:
        """Parts records into training and validation.

        Args:
          records: all of them, in order.

        Returns:
          the records of each split, in their order.
        """
        return {s: [r for r in records if split_of(cls.split_key(r.id)) == s] for s in SPLITS}

    def check_example(self, record: Record, example: Example, split: Split) -> None:
        """Looks at an example that is about to be stored, for what concerns several of them.

        Args:
          record: its files.
          example: of ``read``.
          split: where it belongs.

        Raises:
          InputError: it does not go with the ones before.
        """

    def facts(self) -> dict[str, Any]:
        """States what all examples together have shown, once every one was checked.

        Returns:
          entries of the prepared dataset's metadata.

        Raises:
          InputError: the examples make no dataset.
        """
        return {}

    def _info(self) -> tfds.core.DatasetInfo:
        grey = (None, None, 1)
        features: dict[str, tfds.features.FeatureConnector] = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "mask": tfds.features.Image(shape=grey, encoding_format="png"),
        }
        if self.HAS_INSTANCES:
            features["instances"] = tfds.features.Image(
                shape=grey, dtype=np.uint16, encoding_format="png"
            )
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            homepage=self.HOMEPAGE,
            supervised_keys=("image", "mask"),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        config = self.builder_config
        self._records = config.records if config else self.find_records(None, self.data_dir_root)
        self._content = hashlib.sha256()
        with tqdm(desc=f"preparing {self.name}", unit="image", total=len(self._records)) as bar:
            self._bar = bar
            super()._download_and_prepare(dl_manager, download_config)
        self.info.metadata.update(self.facts() | {"content": self._content.hexdigest()[:16]})
        # For PreparedSource: TFDS itself would meet a lost or cut file in the middle of training.
        shards = Path(self.data_dir).glob("*.array_record*")
        self.info.metadata["bytes"] = {shard.name: shard.stat().st_size for shard in shards}

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable[[], Any]]]:
        by_split = self.split_records(self._records)
        self.info.metadata["ids"] = {s: [r.id for r in by_split[s]] for s in SPLITS}
        return {
            split: [
                functools.partial(self._generate, shard, split)
                for shard in itertools.batched(records, _SHARD_EXAMPLES)
            ]
            for split, records in by_split.items()
            if records
        }

    def _generate(
        self, records: Sequence[Record], split: Split
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for record in records:
            example = self.read(record)
            self.check_example(record, example, split)
            self._add_content(record.id, split, example)
            arrays = {k: _to_png(v) for k, v in example.items() if isinstance(v, np.ndarray)}
            yield record.id, {"id": record.id, **arrays}
            self._bar.update()

    def _add_content(self, example_id: str, split: Split, example: Example) -> None:
        """A run that goes on later must find the same images, masks and split."""
        for part in (example_id, split, str(example["image"].shape)):
            self._content.update(part.encode() + b"\0")
        for array in (example["image"], example["mask"]):
            self._content.update(array.tobytes())

    def _log_download_bytes(self) -> None:
        """Says nothing: TFDS prints to stdout here."""

    def _log_download_done(self) -> None:
        """Says nothing: TFDS prints to stdout here."""


def prepare(
    builder_class: type[SegmentationBuilder], data_dir: Path | None, prepared_dir: Path
) -> Path:
    """Prepares a dataset, or finds it prepared from the same files.

    Args:
      builder_class: the dataset's ``Builder``.
      data_dir: where the source is; None for the dataset's own place.
      prepared_dir: the root folder of prepared datasets.

    Returns:
      the prepared dataset's folder, ``<prepared_dir>/<name>/<fingerprint>/<version>``.

    Raises:
      InputError: the source is missing or damaged, or the folder cannot be written.
    """
    try:
        records = builder_class.find_records(data_dir, prepared_dir)
    except OSError as error:
        raise InputError(
            f"{error.filename} cannot be read ({error.strerror}); make it readable, or name another"
            " data_dir"
        ) from error
    files = [entry for record in records for entry in (record.image, *record.masks)]
    config = SourceConfig(name=fingerprint(files), records=records)
    with _quiet():
        builder = builder_class(config=config, data_dir=prepared_dir, file_format="array_record")
        target = Path(builder.data_dir)
        try:
            builder.download_and_prepare()
        except (OSError, RuntimeError) as error:  # RuntimeError is ArrayRecord's full disk
            # Another process may have finished the same dataset first.
            if not target.is_dir():
                raise InputError(
                    f"{prepared_dir} cannot take the prepared dataset ({error});"
                    " name another folder as prepared_dir"
                ) from error
        finally:
            downloads = prepared_dir / "downloads"
            _remove_empty(target.parent, target.parent.parent, downloads / "extracted", downloads)
    return target


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS's own log lines and bars from the terminal; its errors still raise."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _remove_empty(*folders: Path) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _to_png(array: np.ndarray) -> io.BytesIO:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png", compress_level=4)
    buffer.seek(0)
    return buffer
