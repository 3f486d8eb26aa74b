"""Generated nuclei as a random-access source: nothing on disk, examples made when asked for."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from mbu_jax.data.example import Example
from mbu_jax.data.synthetic.generator import example_id, generate_example
from mbu_jax.errors import InputError

TRAIN_EXAMPLES = 512
VALIDATION_EXAMPLES = 64


@dataclasses.dataclass(frozen=True)
class SyntheticSource:
    """A sequence of generated examples; picklable, and the same on every machine.

    Attributes:
      keys: (split, index in the split) of every example.
      seed: another seed gives another data set.
      image_size: (H, W) in pixels.
    """

    keys: tuple[tuple[str, int], ...]
    seed: int = 0
    image_size: tuple[int, int] = (128, 128)

    @property
    def classes(self) -> int:
        """What masks tell apart: objects on a background."""
        return 1

    @property
    def facts(self) -> dict[str, Any]:
        """What a run keeps to know the data by: nothing, the dataset's name says all."""
        return {}

    @property
    def ids(self) -> tuple[str, ...]:
        """The examples' ids, in order."""
        return tuple(example_id(split, index) for split, index in self.keys)

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.keys)

    def __iter__(self) -> Iterator[Example]:
        """Generates all examples in order."""
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, position: int, /) -> Example:
        """Generates the example at this position; see `generate_example` for its fields."""
        split, index = self.keys[position]
        return generate_example(split, index, seed=self.seed, image_size=self.image_size)


def synthetic_source(
    split: str,
    *,
    seed: int = 0,
    image_size: tuple[int, int] = (128, 128),
    train_examples: int = TRAIN_EXAMPLES,
    validation_examples: int = VALIDATION_EXAMPLES,
) -> SyntheticSource:
    """Opens a split of the generated nuclei.

    Args:
      split: "train", "validation", or "all" for both, in that order.
      seed: another seed gives another data set.
      image_size: (H, W) in pixels, at least 32 a side.
      train_examples: the number of images of the training split.
      validation_examples: the number of images of the validation split.

    Returns:
      The source: `len(source)`, `source[i]` and `source.ids`.

    Raises:
      InputError: for an unknown split, a negative seed, an empty split or too small an image.

    Example:
      >>> source = synthetic_source("validation")
      >>> len(source), source[3]["mask"].shape
      (64, (128, 128))
    """
    sizes = {"train": train_examples, "validation": validation_examples}
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name}_examples is {size}; give a number of at least 1")
    splits = tuple(sizes) if split == "all" else (split,)
    keys = tuple((name, index) for name in splits for index in range(sizes.get(name, 1)))
    source = SyntheticSource(keys, seed, image_size)
    source[0]  # a wrong split, seed or size is told here, not in the middle of training
    return source
