"""A prepared folder of a user's images as examples to train on or to score."""

from pathlib import Path
from typing import Any, override

from mbu_jax.data.example import Example
from mbu_jax.data.folder.classes import class_table, find_classes
from mbu_jax.data.prepared import PreparedSource


class FolderSource(PreparedSource):
    """A user's folder, the numbers in its masks read as classes.

    Args:
      directory: the folder that ``prepare`` returned.
      split: ``"train"``, ``"validation"`` or ``"all"``.
      classes: what the masks must fit; None finds out from them.

    Raises:
      InputError: the folder is damaged, the split is empty, or the masks do not fit.
    """

    def __init__(self, directory: Path, split: str, classes: int | None = None) -> None:
        super().__init__(directory, split)
        numbers = {int(number): name for number, name in self.metadata["numbers"].items()}
        self.classes = find_classes(numbers, classes)
        self._table = class_table(self.classes)

    @property
    @override
    def facts(self) -> dict[str, Any]:
        """Besides a name for the content: how many images are on either side, why, the classes."""
        images = {split: len(ids) for split, ids in self.metadata["ids"].items()}
        split_by = self.metadata["split_by"]
        return {**super().facts, "images": images, "split_by": split_by, "classes": self.classes}

    @override
    def __getitem__(self, index: int) -> Example:
        """Reads and decodes one example; negative indices count from the end."""
        example = super().__getitem__(index)
        example["mask"] = self._table[example["mask"]]
        return example

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._directory, self._split, self.classes)
