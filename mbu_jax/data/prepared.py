"""Random access to a prepared dataset, for grain."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import PngImagePlugin

from mbu_jax.data.example import Example
from mbu_jax.data.splits import SPLITS
from mbu_jax.errors import InputError


class PreparedSource:
    """A prepared dataset as a sequence of examples in the order of their ids.

    It pickles as its folder and split, so that grain's worker processes open their own files.

    Args:
      directory: the folder that ``prepare`` returned.
      split: ``"train"``, ``"validation"``, or ``"all"`` for both, merged in the order of ids.

    Attributes:
      ids: the examples' ids in order.
      metadata: what was found when the dataset was prepared.
      classes: what masks tell apart: 1 for objects on a background, else the number of classes.

    Raises:
      InputError: the folder is damaged, or the split is empty.
    """

    classes = 1

    def __init__(self, directory: Path, split: str) -> None:
        self._directory = directory
        self._split = split
        try:
            metadata = json.loads((directory / "metadata.json").read_text())
            ids, self._content = metadata["ids"], metadata["content"]
            sizes = {name: (directory / name).stat().st_size for name in metadata["bytes"]}
            builder: Any = tfds.builder_from_directory(directory)
            # Decoded here: TFDS needs OpenCV for 16-bit images.
            skip = {k: tfds.decode.SkipDecoding() for k in builder.info.features if k != "id"}
            stored: dict[str, Any] = {
                name: builder.as_data_source(name, decoders=skip) for name in SPLITS if ids[name]
            }
        except (OSError, ValueError, LookupError) as error:
            raise _damaged(directory) from error
        if sizes != metadata["bytes"]:
            raise _damaged(directory)
        chosen = SPLITS if split == "all" else (split,)
        where = [(key, name, i) for name in chosen for i, key in enumerate(ids[name])]
        if not where:
            raise InputError(
                f"the {split} split is empty: only {sum(map(len, ids.values()))} images;"
                " add more, or use the split all"
            )
        where.sort()
        self.metadata = metadata
        self._stored = stored
        self._where = [(name, i) for _, name, i in where]
        self.ids = [key for key, _, _ in where]

    @property
    def facts(self) -> dict[str, Any]:
        """What a run keeps to know the data by: a name for the content."""
        return {"content": self._content}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Example:
        """Reads and decodes one example; negative indices count from the end."""
        name, i = self._where[index]
        record = self._stored[name][i]
        example: dict[str, Any] = {k: _decode(v) for k, v in record.items() if k != "id"}
        return Example(id=record["id"].decode(), **example)

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"PreparedSource({str(self._directory)!r}, {self._split!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._directory, self._split)


def _decode(png: bytes) -> np.ndarray:
    # Image.open has a limit of its own, below the one that the picture was let in by.
    return np.array(PngImagePlugin.PngImageFile(io.BytesIO(png)))


def _damaged(directory: Path) -> InputError:
    return InputError(f"the prepared dataset {directory} is damaged; delete that folder and rerun")
