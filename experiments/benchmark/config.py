"""Options of the benchmark, and its presets."""

import dataclasses
import os
from pathlib import Path
from typing import Literal

from mbu_jax.architecture import SIZE_MULTIPLE
from mbu_jax.errors import InputError

_LARGEST_SIZE = 8192


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """Which networks run: random weights, unless trained ones are given."""

    run: Path | None = None
    """Run directory of a trained full_precision network, for XLA and the other runtimes."""

    packed: tuple[Path, ...] = ()
    """Packed networks for our rows: run directories, or files as model.safetensors."""

    width: int | None = None
    """Channels at full resolution; by default those of the networks given, or 64."""

    density: float = 0.1
    """Share of non-zeros of random masked weights."""


@dataclasses.dataclass(frozen=True)
class TimingOptions:
    """How often each row is timed."""

    seconds: float = 60.0
    """Time for the rounds of rows that are timed in turn; it sets the number of rounds."""

    min_rounds: int = 5
    """Rounds at least, however slow."""

    max_rounds: int = 15
    """Rounds at most, however fast."""


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Time inference of packed networks beside other runtimes, in turn, each in its own process.

    Every row is a network on a runtime: xla-fp32, onnxruntime-fp32, onnxruntime-int8,
    openvino-fp32, openvino-bf16, openvino-int8, or NETWORK:ENGINE, where NETWORK is binary,
    all_masked or mbu, with -2bit behind for two-bit activations.
    """

    device: Literal["cpu"] = "cpu"
    """Where everything runs."""

    rows: tuple[str, ...] | None = None
    """Rows to compare; by default all that can run here."""

    baselines: tuple[str, ...] = ("onnxruntime-fp32", "openvino-int8")
    """Rows that others are compared with, where they run."""

    size: int = 512
    """Height and width of the image that every number of threads and batch size is timed on."""

    threads: tuple[int, ...] = (1, 2)
    """Numbers of threads. What follows is timed with the largest."""

    batch_sizes: tuple[int, ...] = (1,)
    """Images at once, besides one."""

    sizes: tuple[int, ...] = (128, 256, 384, 512)
    """Heights and widths that all rows are timed on, one image at once."""

    densities: tuple[float, ...] = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5)
    """Shares of non-zeros of random masked weights that our masked rows are timed with."""

    end_to_end: bool = True
    """Also time from PNG file to PNG file of the mask."""

    layers: bool = False
    """Also time every convolution of our masked rows, on one thread."""

    out: Path = Path("results/benchmark-cpu")
    """Folder for benchmark.json and benchmark.png."""

    overwrite: bool = False
    """Replace an earlier benchmark in that folder."""

    networks: NetworkOptions = NetworkOptions()
    timing: TimingOptions = TimingOptions()

    @property
    def all_sizes(self) -> tuple[int, ...]:
        """Every size that is timed, ascending."""
        return tuple(sorted({self.size, *self.sizes}))

    def check(self) -> None:
        """Refuse what cannot be timed, before anything is.

        Raises:
          InputError: naming the option and what it may be.
        """
        for size in self.all_sizes:
            if size % SIZE_MULTIPLE or not 32 <= size <= _LARGEST_SIZE:
                raise InputError(
                    f"size {size} cannot be timed; choose multiples of {SIZE_MULTIPLE} from 32 to "
                    f"{_LARGEST_SIZE}"
                )
        cores = len(available_cores())
        if not self.threads or not all(1 <= n <= cores for n in self.threads):
            raise InputError(f"threads is {self.threads}; this process may use 1 to {cores}")
        if not all(1 <= n <= 64 for n in self.batch_sizes):
            raise InputError(f"batch_sizes is {self.batch_sizes}; choose numbers from 1 to 64")
        for density in (*self.densities, self.networks.density):
            if not 0 < density < 1:
                raise InputError(f"density {density} is no share between 0 and 1")
        timing = self.timing
        if not 1 <= timing.min_rounds <= timing.max_rounds:
            raise InputError(
                f"min_rounds is {timing.min_rounds} and max_rounds {timing.max_rounds}; give at "
                "least 1 and no fewer than that"
            )
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"{self.out} is a file; choose a folder for --out")
        if (self.out / "benchmark.json").exists() and not self.overwrite:
            raise InputError(
                f"{self.out} holds a benchmark; choose another --out, or give --overwrite"
            )


def available_cores() -> tuple[int, ...]:
    """List the processor cores that this process may use.

    Returns:
      Their numbers, ascending.
    """
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


PRESETS = {
    "default": BenchmarkConfig(),
    "full": BenchmarkConfig(
        batch_sizes=(1, 8),
        sizes=(256, 512, 1024, 2048),
        densities=(0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
        layers=True,
        timing=TimingOptions(min_rounds=3),
    ),
    "smoke": BenchmarkConfig(
        size=64,
        threads=(1,),
        sizes=(),
        densities=(0.3,),
        layers=True,
        networks=NetworkOptions(width=8),
        timing=TimingOptions(seconds=1.0, min_rounds=2, max_rounds=3),
    ),
}
"""Named sets of defaults: a few minutes; everything; seconds, to see that it works."""
