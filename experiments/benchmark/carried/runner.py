"""What a row does: load, run many times between two waits, run once, give logits."""

from abc import ABC, abstractmethod
from typing import Any

from numpy.typing import NDArray

from experiments.benchmark.carried.folder import Folder


class Runner(ABC):
    """A network on the GPU, ready for batches of one shape.

    Args:
      row: from the manifest.
      size: height and width of the images.
      images: uint8 [B, H, W, C].
      folder: that the row's files are in.

    Attributes:
      facts: what it really runs with.
    """

    facts: dict[str, Any]

    @abstractmethod
    def __init__(
        self, row: dict[str, Any], size: tuple[int, int], images: NDArray, folder: Folder
    ) -> None: ...

    @abstractmethod
    def run(self, calls: int) -> dict[str, float]:
        """Start a number of calls, one after another, and wait for the last.

        Args:
          calls: how many.

        Returns:
          ``device_seconds`` between two events of the GPU, where the runtime has them.
        """

    @abstractmethod
    def logits(self) -> NDArray:
        """Run once.

        Returns:
          Float32 [B, H, W, classes], in this process's memory.
        """

    @abstractmethod
    def memory(self) -> dict[str, int]:
        """Tell what the network takes of the GPU's memory.

        Returns:
          Bytes: ``peak_bytes`` that the runtime held at once, weights and images included, and
          ``planned_bytes`` that the compiler planned; where they are known.
        """


def runner_of(
    row: dict[str, Any], size: tuple[int, int], images: NDArray, folder: Folder
) -> Runner:
    """Load a row.

    Args:
      row: from the manifest.
      size: height and width of the images.
      images: uint8 [B, H, W, C].
      folder: that the row's files are in.

    Returns:
      The row, ready.
    """
    # Each imports a library that need not be installed.
    match row["runtime"]:
        case "jax":
            from experiments.benchmark.carried.jax_runner import JaxRunner as Chosen
        case "torch":
            from experiments.benchmark.carried.torch_runner import TorchRunner as Chosen
        case "tensorrt":
            from experiments.benchmark.carried.tensorrt_runner import TensorrtRunner as Chosen
        case other:
            raise ValueError(f"unknown runtime {other!r}")
    return Chosen(row, size, images, folder)
