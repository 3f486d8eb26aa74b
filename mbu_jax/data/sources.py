"""Opening a dataset by its name."""

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from mbu_jax.data.example import Example
from mbu_jax.data.splits import SPLITS
from mbu_jax.errors import InputError

PREPARED_DATASETS = ("nuclei", "carvana", "isic")
DATASETS = (*PREPARED_DATASETS, "folder", "synthetic")


class Source(Protocol):
    """A split of a dataset: a picklable sequence of examples, in an order that never changes."""

    @property
    def ids(self) -> Sequence[str]:
        """The examples' ids in order, known without reading the examples."""
        ...

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def __iter__(self) -> Iterator[Example]:
        """Reads the examples one after another."""
        ...

    def __getitem__(self, index: int, /) -> Example:
        """Reads one example; its arrays are contiguous, and the caller's own to change."""
        ...


class Dataset(Source, Protocol):
    """A source that knows what its masks tell apart."""

    @property
    def classes(self) -> int:
        """1 for objects on a background, else the number of classes, background included."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a run keeps to know the data by; empty where they are generated."""
        ...


def open_source(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    prepared_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    classes: int | None = None,
) -> Dataset:
    """Opens one split of a dataset, and prepares the dataset where that is not done yet.

    Preparation checks every file once and keeps the result under
    ``<prepared_dir>/<name>/<fingerprint of the source's files>``, so that sources of the same
    layout never meet, and opening the same one again is quick.

    Args:
      name: nuclei, carvana, isic, folder (a user's own images) or synthetic.
      split: train or validation, fixed by the images' ids (see ``split_of``) or by a user's
        folders, or all for both, in the order of ids.
      data_dir: the dataset's archive, its folder, or its unpacked copy; a user's own folder. None
        downloads nuclei, and looks for carvana and isic in ``<prepared_dir>/downloads/manual``.
      prepared_dir: where prepared datasets are kept. None is TFDS's own place: the environment
        variable TFDS_DATA_DIR, or ``~/tensorflow_datasets``.
      seed: which synthetic dataset; the others have but one.
      classes: what the masks of a user's folder must fit, the ``classes`` of a network that is
        scored; None finds out from the masks.

    Returns:
      the split, with examples as ``Example`` describes them.

    Raises:
      InputError: an unknown name or split, or a source that is missing, damaged or not laid out
        as the dataset's README says.

    Example:
      >>> source = open_source("synthetic", "validation")
      >>> source[0]["image"].dtype, source[0]["mask"].max()
      (dtype('uint8'), np.uint8(1))
    """
    if name not in DATASETS:
        raise InputError(f"unknown dataset {name!r}; choose one of {', '.join(DATASETS)}")
    if split not in (*SPLITS, "all"):
        raise InputError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}, all")
    if name != "folder" and classes not in (None, 1):
        raise InputError(f"the dataset {name} has one class of objects, not {classes} classes")
    if name == "synthetic":
        if data_dir is not None:
            raise InputError(
                "the synthetic dataset is generated; leave out data_dir, or say which layout it"
                " has, as with --dataset folder"
            )
        from mbu_jax.data.synthetic import synthetic_source

        return cast(Dataset, synthetic_source(split, seed=seed))

    # Late, because importing TFDS takes seconds.
    from mbu_jax.data.builder import prepare
    from mbu_jax.data.prepared import PreparedSource

    module = importlib.import_module(f"mbu_jax.data.{name}.{name}_dataset_builder")
    source_path = None if data_dir is None else Path(data_dir).expanduser()
    root = prepared_dir or os.environ.get("TFDS_DATA_DIR") or Path("~", "tensorflow_datasets")
    directory = prepare(module.Builder, source_path, Path(root).expanduser().absolute())
    if name == "folder":
        from mbu_jax.data.folder.source import FolderSource

        return FolderSource(directory, split, classes)
    return PreparedSource(directory, split)
