"""Training on a part of a dataset."""

import dataclasses
from collections.abc import Iterator, Sequence

from mbu_jax.data.example import Example
from mbu_jax.data.sources import Source
from mbu_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class FirstImages:
    """The first images of a source, in its order.

    Attributes:
      source: all of them.
      count: how many.

    Raises:
      InputError: if there are fewer.

    Example:
      >>> from mbu_jax.data import open_source
      >>> FirstImages(open_source("synthetic", "train"), 3).ids == open_source(
      ...     "synthetic", "train"
      ... ).ids[:3]
      True
    """

    source: Source
    count: int

    def __post_init__(self) -> None:
        """Checks that there are enough."""
        if len(self.source) < self.count:
            raise InputError(
                f"train_images is {self.count} but there are {len(self.source)}; leave it out to "
                "use all"
            )

    @property
    def ids(self) -> Sequence[str]:
        """The images' ids, in order."""
        return self.source.ids[: self.count]

    def __len__(self) -> int:
        """The number of images."""
        return self.count

    def __iter__(self) -> Iterator[Example]:
        """All of them in order."""
        return map(self.__getitem__, range(self.count))

    def __getitem__(self, index: int, /) -> Example:
        """One image; see the source."""
        return self.source[range(self.count)[index]]
