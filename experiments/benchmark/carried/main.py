"""Run a folder of exported programs on the device that is here, the most important rows first."""

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.benchmark.carried.clock import Clock
from experiments.benchmark.carried.errors import CarriedError
from experiments.benchmark.carried.folder import FORMAT, Folder
from experiments.benchmark.carried.group import time_group
from experiments.benchmark.carried.nvml import Nvml, first_gpu
from experiments.benchmark.carried.processes import Failed, Process

RESULTS = "benchmark.json"
_IDLE_SECONDS = 2.0
_KERNEL_ROUNDS, _KERNEL_SECONDS = 7, 4.0
_VERSIONS = ("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "torch", "triton")
_VERSIONS += ("tensorrt", "numpy", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12")


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, run, and write the results as they come.

    Args:
      arguments: of the command line, by default this process's.

    Raises:
      SystemExit: with code 2 and one line where something can be mended.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    here = Path(sys.argv[0]).resolve().parent
    parser.add_argument("--out", type=Path, required=True, help="folder for " + RESULTS)
    parser.add_argument("--minutes", type=float, default=8.0, help="that it may take (8)")
    parser.add_argument("--folder", type=Path, default=here, help="of programs (this file's)")
    parser.add_argument("--only", nargs="*", default=None, help="steps, by the start of their name")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier " + RESULTS)
    options = parser.parse_args(arguments)
    try:
        if not options.minutes > 0:
            raise CarriedError(f"--minutes is {options.minutes:g}; give a number above 0")
        seconds = 60 * options.minutes
        measure(options.folder, options.out, seconds, options.only, overwrite=options.overwrite)
    except CarriedError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def measure(
    path: Path, out: Path, seconds: float, only: list[str] | None = None, *, overwrite: bool = False
) -> Path:
    """Measure what a folder holds.

    Args:
      path: of the folder.
      out: folder for the results.
      seconds: that it may take; what is not reached is not measured.
      only: starts of the names of steps, or None for all.
      overwrite: whether earlier results may be replaced.

    Returns:
      File of the results.

    Raises:
      CarriedError: for a folder that is damaged, a device that it is not for, earlier results, or a
        JAX that cannot read programs.
    """
    clock = Clock(seconds)
    if importlib.util.find_spec("flatbuffers") is None:
        raise CarriedError(
            "JAX reads programs with flatbuffers, which is not installed; install it"
        )
    if (out / RESULTS).exists() and not overwrite:
        raise CarriedError(f"{out} holds a benchmark; choose another --out, or give --overwrite")
    folder = Folder(path)
    gpu = _fitting_gpu(folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CarriedError(f"{out} cannot be made ({error.strerror}); choose another") from error
    report: dict[str, Any] = {
        "format": FORMAT,
        "device": "gpu",
        "made_for": folder.manifest["made_for"],
        "config": folder.manifest["config"],
        "networks": {name: about["facts"] for name, about in folder.manifest["networks"].items()},
        "rows": {row["name"]: row["about"] for row in folder.manifest["rows"]},
        "machine": _machine(gpu),
        "ceilings": {},
        "groups": [],
        "layers": [],
        "tiles": [],
        "not_reached": [],
    }
    run = _Run(folder, report, out / RESULTS, clock, gpu)
    for step in folder.manifest["steps"]:
        if only is None or any(step["name"].startswith(start) for start in only):
            run.step(step)
    report["seconds"] = clock.passed()
    run.write()
    run.tell(f"{out / RESULTS} holds every sample")
    return out / RESULTS


class _Run:
    """Steps one after another, written down after each."""

    def __init__(
        self, folder: Folder, report: dict[str, Any], file: Path, clock: Clock, gpu: Nvml | None
    ) -> None:
        self._folder, self._report, self._file = folder, report, file
        self._clock, self._gpu = clock, gpu
        self._made_for = folder.manifest["made_for"]["platform"]

    def tell(self, line: str) -> None:
        print(f"{self._clock.passed():6.1f} s  {line}", flush=True)

    def write(self) -> None:
        beside = self._file.with_suffix(".writing")
        beside.write_text(json.dumps(self._report, indent=1, allow_nan=False), encoding="utf-8")
        beside.replace(self._file)

    def step(self, step: dict[str, Any]) -> None:
        clock = self._clock.part(step["share"] * self._clock.left())
        if clock.left() < step["least_seconds"]:
            self.tell(f"{step['name']}: not reached")
            self._report["not_reached"].append(step["name"])
            return
        self.tell(step["name"])
        if step["kind"] == "group":
            self._report["groups"].append(self._group(step, clock))
        else:
            self._kernels(step, clock)
        self.write()

    def _group(self, step: dict[str, Any], clock: Clock) -> dict[str, Any]:
        machine = self._report["machine"]
        memory = None if self._gpu is None else self._gpu.free_bytes()
        energy = machine.get("idle_watts") is not None
        return time_group(self._folder, step, clock, memory=memory, energy=energy, tell=self.tell)

    def _kernels(self, step: dict[str, Any], clock: Clock) -> None:
        """Ceilings, layers, tiles: those of one name in turn, in a process that lives on."""
        found = self._report[step["kind"]]
        process = None
        try:
            for name, programs in step["programs"].items():
                if clock.left() < 2:
                    self._report["not_reached"].append(f"{step['name']}, {name}")
                    continue
                process = process or Process(self._made_for)
                request = {"programs": programs, "rounds": _KERNEL_ROUNDS}
                try:
                    said = process.ask(
                        clock.left(), do="kernels", folder=str(self._folder.path),
                        seconds=_KERNEL_SECONDS, **request,
                    )  # fmt: skip
                except Failed as failed:
                    self.tell(f"  {name}: not measured, {failed}")
                    self._report["not_reached"].append(f"{step['name']}, {name}: {failed}")
                    process.close()
                    process = None
                    continue
                self._report["machine"] |= said["device"]
                for about, samples in zip(programs, said["samples"], strict=True):
                    self._note(found, name, about, samples)
        finally:
            if process is not None:
                process.close()

    def _note(self, found: Any, name: str, about: dict[str, Any], samples: list[float]) -> None:
        line = {**about["about"], "samples": samples}
        if isinstance(found, dict):
            found[name] = line
        else:
            found.append({"layer": name, **line})
        self.tell(f"  {name} {about['about'].get('engine', '')}: {1e6 * min(samples):.1f} us")


def _fitting_gpu(folder: Folder) -> Nvml | None:
    made_for = folder.manifest["made_for"]
    if made_for["platform"] != "cuda":
        return None
    gpu = first_gpu()
    if gpu is None:
        raise CarriedError("there is no NVIDIA GPU here; run this folder on a machine with one")
    about = gpu.describe()
    if about["compute_capability"] != made_for["compute_capability"]:
        raise CarriedError(
            f"{folder.path} is for compute capability {made_for['compute_capability']}, and "
            f"{about['name']} has {about['compute_capability']}; export it with "
            f"--compute-capability {about['compute_capability']}"
        )
    return gpu


def _machine(gpu: Nvml | None) -> dict[str, Any]:
    versions = {}
    for name in _VERSIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    found: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": versions,
    }
    if gpu is not None:
        found |= gpu.describe()
        with contextlib.suppress(OSError):  # this GPU does not count its energy
            found["idle_watts"] = gpu.watts_over(_IDLE_SECONDS)
    return found
