"""Grain pipelines: shuffled and augmented batches to train on, whole images to evaluate on.

Training batches are a pure function of the source, the options, the seed and the number of the
batch. Neither worker processes nor resuming nor the number of training processes changes them.
"""

import dataclasses
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags
from PIL import Image

from mbu_jax.data.augment import NO_AUGMENTATION, AugmentOptions, augment
from mbu_jax.data.example import Example
from mbu_jax.data.sources import Source
from mbu_jax.data.workers import end_with_parent
from mbu_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class PipelineOptions:
    """How training examples are read, resized, varied and cut.

    Raises:
      InputError: for a value out of range; the message names the option.
    """

    image_size: tuple[int, int] | None = None
    """Resize whole images to this height and width first; the default keeps their size."""

    crop: tuple[int, int] | None = None
    """Height and width of a random crop; the default trains on whole images."""

    augment: AugmentOptions = AugmentOptions()
    """Random variation of the training examples."""

    workers: int = 0
    """Processes that prepare batches; 0 uses a thread of the training process."""

    prefetch: int = 2
    """Batches prepared ahead (by each worker); 0 prepares each one only when it is asked for."""

    cache_gib: float = 2.0
    """Decoded images kept in memory, in GiB; 0 decodes them anew in every epoch."""

    def __post_init__(self) -> None:
        """Checks every range."""
        for name in ("image_size", "crop"):
            check_size(name, getattr(self, name))
        for name in ("workers", "prefetch", "cache_gib"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise InputError(f"option {name} is {value}; give a finite number of at least 0")

    def unvaried(self) -> "PipelineOptions":
        """Options for the same images as they are: whole and without variation.

        Returns:
          These options without augmentation; without crop, too, where `image_size` gives all
          images one size.

        Example:
          >>> PipelineOptions(image_size=(256, 256), crop=(64, 64)).unvaried().crop
        """
        crop = self.crop if self.image_size is None else None
        return dataclasses.replace(self, crop=crop, augment=NO_AUGMENTATION)

    @property
    def cropped(self) -> bool:
        """Whether training has parts of images that are whole where nothing is varied.

        Example:
          >>> PipelineOptions(image_size=(256, 256), crop=(64, 64)).cropped
          True
        """
        return self.crop not in (self.unvaried().crop, self.image_size)


def check_size(name: str, size: tuple[int, int] | None) -> None:
    """Refuses a size that images cannot be given.

    Args:
      name: of the option.
      size: (h, w), or None, which is no size to check.

    Raises:
      InputError: a side is below 1 or above 16384.

    Example:
      >>> check_size("image_size", (480, 640))
    """
    if size is not None and not all(1 <= side <= _LARGEST_SIDE for side in size):
        height, width = size
        raise InputError(
            f"option {name} is {height} {width}; give a height and width of 1 to {_LARGEST_SIDE}"
        )


_LARGEST_SIDE = 2**14  # of a square of as many pixels as a picture file may have
_WAITING_BYTES = 2**30  # of images to evaluate that wait for others of their size


class PreparedImages:
    """The image, mask and id of a source's examples, resized, and kept once they are read.

    One image takes 4 H W bytes: 600 of 256x256 take 150 MiB. Each worker process keeps its own.

    Args:
      source: the examples.
      image_size: (h, w) to resize to, antialiased for the image, nearest for the mask; None keeps
        the size.
      cache_gib: how much to keep, in GiB; beyond that, examples are read again each time.

    Attributes:
      image_size: as given.

    Raises:
      InputError: a size out of range.

    Example:
      >>> from mbu_jax.data.synthetic import synthetic_source
      >>> images = PreparedImages(synthetic_source("validation"), image_size=(64, 96))
      >>> images[0]["image"].shape
      (64, 96, 3)
    """

    def __init__(
        self,
        source: Source,
        image_size: tuple[int, int] | None = None,
        cache_gib: float = 2.0,
    ) -> None:
        check_size("image_size", image_size)
        self._source = source
        self.image_size = image_size
        self._cache_gib = cache_gib
        self._kept: dict[int, Example] = {}
        self._free_bytes = cache_gib * 2**30

    @property
    def ids(self) -> Sequence[str]:
        """The examples' ids in order."""
        return self._source.ids

    def __len__(self) -> int:
        """The number of examples."""
        return len(self._source)

    def __iter__(self) -> Iterator[Example]:
        """All examples in order."""
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> Example:
        """An example without instances; its arrays are read-only."""
        if index in self._kept:
            return self._kept[index]
        example = resize(self._source[index], self.image_size)
        arrays = example["image"], example["mask"]
        for array in arrays:
            array.setflags(write=False)
        size = sum(array.nbytes for array in arrays)
        if size <= self._free_bytes:
            self._kept[index] = example
            self._free_bytes -= size
        return example

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles without what is kept: a worker process fills its own."""
        return PreparedImages, (self._source, self.image_size, self._cache_gib)


def resize(example: Example, size: tuple[int, int] | None) -> Example:
    """Resizes an example's image (antialiased) and mask (nearest) as a whole.

    Args:
      example: of any size.
      size: (h, w), or None to keep the size.

    Returns:
      An example of that size, without instances; of the same arrays where they have it.
    """
    image, mask = example["image"], example["mask"]
    if size is not None and mask.shape != size:
        bilinear, nearest = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
        image = np.array(Image.fromarray(image).resize(size[::-1], bilinear))
        mask = np.array(Image.fromarray(mask).resize(size[::-1], nearest))
    return Example(id=example["id"], image=image, mask=mask)


def epoch_length(source: Source, batch_size: int, epochs: int = 1) -> int:
    """Counts the batches in which every example is seen at least `epochs` times.

    Args:
      source: the examples.
      batch_size: examples in a batch over all processes.
      epochs: how often each is to be seen.

    Returns:
      The length of `train_batches(source, ..., epochs=epochs)`.
    """
    return math.ceil(epochs * len(source) / batch_size)


def train_batches(
    source: Source,
    options: PipelineOptions,
    *,
    batch_size: int,
    seed: int,
    epochs: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> "TrainIterator":
    """Shuffles, augments and batches a source, again and again.

    Each epoch has an order of its own, and holds every example once. A batch may end one epoch and
    begin the next, so that nothing is dropped; the last batch of a finite stream is filled up from
    the epoch after it. The variation of an example depends on the seed and its position in the
    stream alone.

    Args:
      source: the examples, picklable if there are workers. Of a `PreparedImages` of the same size
        those that it keeps are shared.
      options: resizing, crop, augmentation, workers.
      batch_size: examples in a batch over all processes.
      seed: of order and augmentation, at least 0.
      epochs: when to stop; None never stops.
      process_index: which process this is. Process p gets rows [p b, (p + 1) b) of each batch,
        where b = batch_size / process_count.
      process_count: how many processes share each batch; a divisor of batch_size.

    Returns:
      A `grain.DatasetIterator` of {"image": uint8 [b, h, w, 3], "mask": uint8 [b, h, w],
      "id": str [b]}. Its state is the number of batches taken: a state saved by one iterator fits
      another with other workers, or of another process.

    Raises:
      InputError: for an empty source, a batch that the processes cannot share, a negative seed;
        while iterating, for images of different sizes if neither crop nor image_size is given.

    Example:
      >>> from mbu_jax.data.synthetic import synthetic_source
      >>> options = PipelineOptions(crop=(64, 64))
      >>> batches = train_batches(synthetic_source("train"), options, batch_size=8, seed=0)
      >>> next(batches)["image"].shape, batches.get_state()
      ((8, 64, 64, 3), {'next_batch': 1})
    """
    share = _share(source, batch_size, process_index, process_count)
    if seed < 0:
        raise InputError(f"seed is {seed}; give a number of at least 0")
    if epochs is not None and epochs < 1:
        raise InputError(f"epochs is {epochs}; give a number of at least 1")
    shuffle_seed, augment_seed = np.random.SeedSequence(seed).generate_state(2).tolist()
    if isinstance(source, PreparedImages) and source.image_size == options.image_size:
        images = source
    else:
        images = PreparedImages(source, options.image_size, options.cache_gib)
    stream = (
        grain.MapDataset.source(images)
        .shuffle(shuffle_seed)
        .repeat()
        .random_map(_Augment(options.augment, options.crop), seed=augment_seed)
    )
    batches = None if epochs is None else epoch_length(source, batch_size, epochs)
    return TrainIterator(_Batches(stream, share, batch_size, batches), options)


@dataclasses.dataclass(frozen=True)
class _Augment(grain.transforms.RandomMap):
    options: AugmentOptions
    crop: tuple[int, int] | None

    def random_map(self, element: Any, rng: np.random.Generator) -> Any:
        return augment(element, rng, self.options, self.crop)


class _Batches(grain.MapDataset):
    """One process's rows of every batch of a stream, counted from batch `first`."""

    def __init__(
        self, stream: grain.MapDataset, share: slice, batch_size: int, count: int | None
    ) -> None:
        super().__init__(stream)
        self._share = share
        self._batch_size = batch_size
        self._count = sys.maxsize // batch_size if count is None else count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        positions = range(index * self._batch_size, (index + 1) * self._batch_size)[self._share]
        return _stack([self._parent[position] for position in positions])


class TrainIterator(grain.DatasetIterator):
    """Batches from any position of an endless or finite stream; made by `train_batches`."""

    def __init__(self, batches: grain.MapDataset, options: PipelineOptions) -> None:
        super().__init__()
        self._batches = batches
        self._options = options
        self._next_batch = 0
        self._running: grain.DatasetIterator | None = None

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch."""
        if self._running is None:
            self._running = self._start()
        batch = next(self._running)
        self._next_batch += 1
        # Copied, since workers hand over shared memory that is theirs to free.
        return {key: np.array(value) for key, value in batch.items()}

    def get_state(self) -> dict[str, Any]:
        """{"next_batch": how many batches have been taken}."""
        return {"next_batch": self._next_batch}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues with the batch that a saved state names, forwards or backwards.

        Args:
          state: of `get_state`.

        Raises:
          InputError: the state is of another kind, or past the end of the stream.
        """
        position = state.get("next_batch")
        if not isinstance(position, int) or not 0 <= position <= len(self._batches):
            raise InputError(f"data position {state} does not fit this stream; start a new run")
        self._stop()
        self._next_batch = position

    def close(self) -> None:
        """Ends the workers."""
        self._stop()
        super().close()

    def _start(self) -> grain.DatasetIterator:
        workers, ahead = self._options.workers, self._options.prefetch
        rest = self._batches[self._next_batch :]
        # Threads contend for the interpreter: one fills the time in which JAX computes.
        threads = 1 if ahead and not workers else 0
        reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        batches = rest.to_iter_dataset(reading)
        if workers:
            # Grain's worker processes read absl flags, which only absl's own programs parse.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            processes = grain.MultiprocessingOptions(workers, per_worker_buffer_size=max(1, ahead))
            batches = batches.mp_prefetch(processes, end_with_parent)
        return iter(batches)

    def _stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    multiple: int | None = None,
    image_size: tuple[int, int] | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches whole images, each exactly once over all processes, in an order that never changes.

    Images of one size share batches, so that none is padded. Each size's last batch is filled up by
    repeating its last image with weight 0. Every process makes the same number of batches, of the
    same shapes in the same order.

    Where sizes are many and images large, the images that wait for others of their size are given
    out once they take 1 GiB.

    Args:
      source: the examples. Every process reads all of them; give a `PreparedImages` to evaluate
        several times and decode once.
      batch_size: images in a batch over all processes.
      multiple: what a batch that is not full is filled up to a multiple of, where no other of its
        size was full: usually the number of devices. None fills up every batch to `batch_size`.
      image_size: (h, w) to resize to; None keeps each image's size.
      process_index: which process this is. Process p gets rows [p b, (p + 1) b) of each batch,
        where b = batch_size / process_count.
      process_count: how many processes share each batch; a divisor of batch_size and multiple.

    Returns:
      An iterator of {"image": uint8 [b, h, w, 3], "mask": uint8 [b, h, w], "id": str [b],
      "weight": float32 [b], 1 for an image and 0 for a repetition}.

    Raises:
      InputError: for an empty source, a batch that the processes cannot share, or a size out of
        range.

    Example:
      >>> from mbu_jax.data.synthetic import synthetic_source
      >>> batches = list(eval_batches(synthetic_source("validation"), batch_size=24))
      >>> len(batches), sum(batch["weight"].sum() for batch in batches)
      (3, np.float32(64.0))
    """
    process = process_index, process_count
    _share(source, batch_size, *process)
    if multiple is not None:
        _share(source, multiple, *process)
    check_size("image_size", image_size)
    grouped = _grouped_by_size(source, batch_size, multiple or batch_size, image_size)
    return (_stack(group[_share(source, len(group), *process)]) for group in grouped)


def _grouped_by_size(
    source: Source, batch_size: int, multiple: int, image_size: tuple[int, int] | None
) -> Iterator[list[dict[str, Any]]]:
    waiting: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    waiting_bytes = 0
    compiled = set()  # sizes that a program for full batches is there for
    for index in range(len(source)):
        example = resize(source[index], image_size)
        size = example["mask"].shape
        group = waiting.setdefault(size, [])
        group.append({**example, "weight": np.float32(1)})
        each = example["image"].nbytes + example["mask"].nbytes
        waiting_bytes += each
        if len(group) == batch_size:
            compiled.add(size)
            waiting_bytes -= batch_size * each
            yield waiting.pop(size)
        last = index == len(source) - 1
        if last or waiting_bytes > _WAITING_BYTES:
            for size, group in waiting.items():
                filled = math.ceil(len(group) / multiple) * multiple
                filler = {**group[-1], "weight": np.float32(0)}
                missing = (batch_size if size in compiled else filled) - len(group)
                yield [*group, *itertools.repeat(filler, missing)]
            waiting, waiting_bytes = {}, 0


def _share(source: Source, batch_size: int, process_index: int, process_count: int) -> slice:
    """Checks the sizes, and returns one process's rows of a global batch."""
    if len(source) == 0:
        raise InputError("the data set is empty; choose another split or data set")
    if batch_size < 1 or batch_size % process_count:
        raise InputError(
            f"batch size {batch_size} cannot be shared by {process_count} processes;"
            f" give a positive multiple of {process_count}"
        )
    if not 0 <= process_index < process_count:
        raise InputError(f"process {process_index} of {process_count} does not exist")
    rows = batch_size // process_count
    return slice(process_index * rows, (process_index + 1) * rows)


def _stack(examples: Sequence[Any]) -> dict[str, np.ndarray]:
    sizes = {example["mask"].shape for example in examples}
    if len(sizes) > 1:
        first = next(e for e in examples if e["mask"].shape != examples[0]["mask"].shape)
        raise InputError(
            f"images {examples[0]['id']} and {first['id']} differ in size; set crop or image_size"
        )
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}
