"""What benchmarks of training updates share: options, images, warm rows, and their report."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.command import check_file, make_folder
from experiments.timing import compare, machine, time_interleaved
from mbu_jax.data.pipeline import check_size
from mbu_jax.errors import InputError
from mbu_jax.files import write_json_atomic


@dataclasses.dataclass(frozen=True)
class UpdateTiming:
    """Time rows, each an update of one or more networks, in turn on this machine's devices."""

    batch_size: int = 8
    """Images in one update."""

    size: int = 128
    """Height and width of the images."""

    rounds: int = 10
    """Times that every row is timed, after one update to compile and one to warm up."""

    out: Path | None = None
    """JSON file for the raw samples."""

    overwrite: bool = False
    """Replace that file if it exists."""

    def check(self) -> None:
        """Refuse what cannot be timed or written, before anything is compiled.

        Raises:
          InputError: for numbers out of range, or a file that cannot be.
        """
        devices = jax.device_count()
        if self.batch_size < 1 or self.batch_size % devices:
            raise InputError(
                f"batch_size is {self.batch_size}; give a multiple of the {devices} devices"
            )
        check_size("size", (self.size, self.size))
        if self.rounds < 1:
            raise InputError(f"rounds is {self.rounds}; give a number of at least 1")
        if self.out is not None:
            make_folder(self.out.parent)
            check_file(self.out, overwrite=self.overwrite)

    def compare(
        self, names: Sequence[str], make_update: Callable[[str], Callable[[], None]]
    ) -> dict[str, dict[str, Any]]:
        """Compile and warm up every row, then time them in turn.

        Args:
          names: of the rows.
          make_update: gives a row's update, which waits for its own result.

        Returns:
          What `experiments.timing.compare` says of the rows.

        Raises:
          InputError: for no names.
        """
        if not names:
            raise InputError("there is nothing to time; name at least one row")
        updates: dict[str, Callable[[], None]] = {}
        for name in tqdm(names, desc="compiling", disable=None):
            update = updates[name] = make_update(name)
            update()
            update()
        return compare(time_interleaved(updates, self.rounds))

    def describe(self) -> dict[str, Any]:
        """Say what was timed, and on what.

        Returns:
          Options, machine and versions: what a report begins with.
        """
        config = dataclasses.asdict(self)
        del config["out"], config["overwrite"]  # where it lies is none of its content
        return {"config": config, **machine()}

    def write(self, report: dict[str, Any]) -> None:
        """Write a report where the options ask for it.

        Args:
          report: what JSON can say.
        """
        if self.out is not None:
            write_json_atomic(self.out, report)


def random_batch(images: int, size: int) -> dict[str, NDArray[np.uint8]]:
    """Draw images and masks, the same ones every time.

    Args:
      images: B.
      size: H and W.

    Returns:
      ``image`` [B, H, W, 3] of all levels and ``mask`` [B, H, W] of 0 and 1.

    Example:
      >>> random_batch(2, size=8)["image"].shape
      (2, 8, 8, 3)
    """
    rng = np.random.default_rng(0)
    shape = (images, size, size)
    return {
        "image": rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
        "mask": rng.integers(0, 2, shape, dtype=np.uint8),
    }
