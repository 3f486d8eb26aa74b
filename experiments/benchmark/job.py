"""What the benchmark asks of a process: one row, on one shape, with so many threads."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Job:
    """One row on one shape.

    Attributes:
      row: its name, for messages.
      runtime: module of `experiments.benchmark.runtimes` that runs it.
      engine: of a packed network its engine, of another runtime its precision.
      model: file of the network.
      unet: configuration of the network, as a dictionary.
      images: file of uint8 images, [B, H, W, C] as NumPy writes them.
      batch: how many of them are segmented at once.
      cores: that the process may use; a thread for each.
      cache: folder for programs that XLA compiles for so many threads, or None.
      logits: file for the logits [H, W, classes] of the first image, or None.
      picture: PNG file to segment instead of the images, or None.
      mask: PNG file for its mask, or None.
      masks: file for the masks [N, H, W] of all the images, which are then not timed, or None.
    """

    row: str
    runtime: str
    engine: str
    model: str
    unet: dict[str, Any]
    images: str
    batch: int
    cores: tuple[int, ...]
    cache: str | None = None
    logits: str | None = None
    picture: str | None = None
    mask: str | None = None
    masks: str | None = None

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Job":
        """Read a job back.

        Args:
          fields: what `dataclasses.asdict` gave, after a journey through JSON.

        Returns:
          The job.
        """
        return cls(**fields | {"cores": tuple(fields["cores"])})

    @property
    def threads(self) -> int:
        """How many threads it may use."""
        return len(self.cores)
