"""What a runtime does for the benchmark."""

from abc import ABC, abstractmethod
from typing import Any, override

import numpy as np
from numpy.typing import NDArray

from experiments.benchmark.job import Job


class Runtime(ABC):
    """A network, loaded and ready to run on images of one shape.

    Args:
      job: what to run.
      shape: of the images, [B, H, W, C].

    Attributes:
      facts: what it really runs with, for the report.
      parts: seconds of each part of the last run, by name, where it times them.
      ceilings: what the core could do at best during that run, where it times parts.
    """

    facts: dict[str, Any]
    parts: dict[str, float] | None = None
    ceilings: dict[str, float] | None = None

    @abstractmethod
    def __init__(self, job: Job, shape: tuple[int, ...]) -> None: ...

    @classmethod
    @abstractmethod
    def start(cls, job: Job) -> None:
        """Load libraries and start threads, so that these do not count as the network's memory.

        Args:
          job: what will be run.
        """

    def prepare(self, images: NDArray) -> Any:
        """Bring images into the form that the network takes; not timed.

        Args:
          images: uint8 [B, H, W, C].

        Returns:
          The network's input, in this process's memory.
        """
        return images

    @abstractmethod
    def run(self, x: Any) -> NDArray:
        """Segment; this is what is timed.

        Args:
          x: what `prepare` gave.

        Returns:
          The network's output, in this process's memory.
        """

    def logits(self, y: NDArray) -> NDArray:
        """Order an output as the others do.

        Args:
          y: what `run` gave.

        Returns:
          Float32 [B, H, W, classes].
        """
        return y

    def mask(self, image: NDArray) -> NDArray:
        """Segment one image from pixels to classes.

        Args:
          image: uint8 [H, W, C].

        Returns:
          uint8 [H, W].
        """
        (logits,) = self.logits(self.run(self.prepare(image[None])))
        if logits.shape[-1] == 1:
            return (logits[..., 0] > 0).astype(np.uint8)
        return logits.argmax(axis=-1).astype(np.uint8)


class ChannelsFirst(Runtime):
    """A runtime of the exported network: float32 [B, C, H, W] in, [B, classes, H, W] out."""

    @override
    def prepare(self, images: NDArray) -> NDArray:
        # To [-1, 1], in the order that the network takes.
        scaled = images.transpose(0, 3, 1, 2) * np.float32(2 / 255)
        scaled -= 1
        return np.ascontiguousarray(scaled)

    @override
    def logits(self, y: NDArray) -> NDArray:
        return y.transpose(0, 2, 3, 1)
