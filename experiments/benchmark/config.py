"""Options of the benchmark, and its presets."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Literal

from experiments.command import check_report
from mbu_jax.architecture import SIZE_MULTIPLE
from mbu_jax.errors import InputError

REPORT, CHART = "benchmark.json", "benchmark.png"
"""Names of the files that a benchmark leaves."""

_LARGEST_SIZE = 8192


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """Which networks run: random weights, unless trained ones are given."""

    run: Path | None = None
    """Run directory of a trained full_precision network, for XLA and the other runtimes."""

    packed: tuple[Path, ...] = ()
    """Packed networks for our rows: run directories, or files as model.safetensors. By default each
    has a row."""

    width: int | None = None
    """Channels at full resolution; by default those of the networks given, or 64."""

    density: float = 0.1
    """Share of non-zeros of random masked weights."""

    score: bool = False
    """Also score trained networks on every runtime, on the validation images of --run, whose data
    must still lie where they were; eight-bit networks are calibrated on its training images."""


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
class GpuOptions:
    """What --device gpu measures, where, and what becomes of it."""

    image_sizes: tuple[tuple[int, int], ...] = ((512, 512), (480, 640), (640, 959))
    """Heights and widths; the first matters most."""

    batches: tuple[int, ...] = (64, 1, 8)
    """Images at once; the first two matter most."""

    layers_of: tuple[str, ...] = ("all_masked", "binary")
    """Packed networks whose layers are also timed alone, on all engines."""

    tune: bool = False
    """Time other tiles of these layers' kernels, too. Copy tuned/DEVICE.json, which is then written
    beside benchmark.json, to triton_kernels/tuned, and kernels take the fastest on such a GPU."""

    minutes: float = 15.0
    """Time for a run on the GPU here."""

    export_to: Path | None = None
    """Write the benchmark to this folder, for another machine's run.py, instead of running it."""

    compute_capability: int | None = None
    """Of the GPU to export for, such as 90 for an H100; by default that of the GPU here."""

    export_platform: Literal["cuda", "cpu"] = "cuda"
    """What to export for; cpu has our xla engine alone, to try a folder out without a GPU."""

    results: Path | None = None
    """Print and draw a benchmark.json that was measured elsewhere, instead of running."""

    def check(self) -> None:
        """Refuse what cannot be measured, before anything is.

        Raises:
          InputError: naming the option and what it may be.
        """
        for name in ("image_sizes", "batches"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty; give at least one")
        for height, width in self.image_sizes:
            if not (16 <= height <= _LARGEST_SIZE and 16 <= width <= _LARGEST_SIZE):
                raise InputError(
                    f"image size {height} {width} cannot be timed; choose 16 to {_LARGEST_SIZE}"
                )
        if not all(1 <= n <= 256 for n in self.batches):
            raise InputError(f"batches is {self.batches}; choose numbers from 1 to 256")
        for name in ("image_sizes", "batches"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise InputError(f"{name} names one twice; name each once")
        if not self.minutes > 0:
            raise InputError(f"minutes is {self.minutes}; give a number above 0")
        if self.results is not None and self.export_to is not None:
            raise InputError("give --results or --export-to, not both")
        if self.export_platform == "cpu" and self.compute_capability is not None:
            raise InputError("a folder for cpu has no compute capability; leave it out")
        if self.export_platform == "cpu" and self.tune:
            raise InputError("a folder for cpu has no tiles; leave --tune out")


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Time inference of packed networks beside other runtimes, in turn, each in its own process.

    On a CPU every row is a network on a runtime: xla-fp32, onnxruntime-fp32, onnxruntime-int8,
    openvino-fp32, openvino-bf16, openvino-int8, or NETWORK:ENGINE, where NETWORK is binary,
    all_masked, mbu or pow2, with -2bit behind for two-bit activations. On a GPU it is xla-fp16,
    torch-fp16-compile and others, or NETWORK:ENGINE, where ENGINE may be auto, with @graph behind
    for one CUDA graph.
    """

    device: Literal["cpu", "gpu"] = "cpu"
    """Where everything runs; the options of a GPU are those under gpu, rows, networks and out."""

    rows: tuple[str, ...] | None = None
    """Rows to compare; by default all that can run here, and one of each packed network given."""

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

    out: Path | None = None
    """Folder for benchmark.json and benchmark.png; by default results/benchmark-cpu or -gpu."""

    overwrite: bool = False
    """Replace an earlier benchmark in that folder."""

    networks: NetworkOptions = NetworkOptions()
    timing: TimingOptions = TimingOptions()
    gpu: GpuOptions = GpuOptions()

    @property
    def folder(self) -> Path:
        """Where the report goes."""
        return Path(f"results/benchmark-{self.device}") if self.out is None else self.out

    @property
    def all_sizes(self) -> tuple[int, ...]:
        """Every size that is timed, ascending."""
        return tuple(sorted({self.size, *self.sizes}))

    def check(self) -> None:
        """Refuse what cannot be timed, before anything is.

        Raises:
          InputError: naming the option and what it may be.
        """
        if self.device == "cpu":
            self._check_cpu()
        else:
            self.gpu.check()
            if self.networks.score:
                raise InputError("--score is of --device cpu; leave it out")
        for density in (*self.densities, self.networks.density):
            if not 0 < density < 1:
                raise InputError(f"density {density} is no share between 0 and 1")
        if self.networks.score and self.networks.run is None:
            raise InputError("--score needs the images of a trained network; name it with --run")
        self._check_folder()

    def _check_cpu(self) -> None:
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
        timing = self.timing
        if not 1 <= timing.min_rounds <= timing.max_rounds:
            raise InputError(
                f"min_rounds is {timing.min_rounds} and max_rounds {timing.max_rounds}; give at "
                "least 1 and no fewer than that"
            )
        if not 0 <= timing.seconds < math.inf:
            raise InputError(f"seconds is {timing.seconds}; give a finite number of at least 0")

    def _check_folder(self) -> None:
        if self.device == "gpu" and self.gpu.export_to is not None:
            return  # the report is written elsewhere, by run.py
        folder = self.folder
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; choose a folder for --out")
        if (folder / REPORT).exists() and not self.overwrite:
            raise InputError(
                f"{folder} holds a benchmark; choose another --out, or give --overwrite"
            )
        check_report(folder, REPORT, (CHART,))


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
        gpu=GpuOptions(image_sizes=((64, 64),), batches=(2, 1), minutes=3.0),
    ),
}
"""Named sets of defaults: a few minutes; everything; seconds, to see that it works."""
