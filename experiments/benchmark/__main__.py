"""Time inference beside other runtimes: python -m experiments.benchmark --device cpu or gpu.

Every row runs in a process of its own, on as many cores as it has threads, and the processes take
turns; the raw seconds are kept.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import dataclasses
import importlib.metadata
import sys
import tempfile
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from tqdm import tqdm

from experiments import command
from experiments.benchmark.charts import draw
from experiments.benchmark.config import CHART, PRESETS, REPORT, BenchmarkConfig, NetworkOptions
from experiments.benchmark.groups import Group, plan
from experiments.benchmark.materials import Materials
from experiments.benchmark.measuring import Measurer, without_own_precision
from experiments.benchmark.networks import Networks
from experiments.benchmark.nursery import Nursery
from experiments.benchmark.processes import RowFailed, tell_left_out
from experiments.benchmark.rows import choose_rows
from experiments.benchmark.scoring import score, write_images
from experiments.benchmark.tables import tables
from experiments.timing import machine
from mbu_jax.files import write_json_atomic
from mbu_jax.ops.bitsliced import library
from mbu_jax.train.images import images_of_run
from mbu_jax.train.rundir import read_unet

_PEERS = ("onnx", "onnxruntime", "openvino")


def main() -> None:
    """Parse the command line, time, write JSON, print tables, draw a chart."""
    config = command.parse(BenchmarkConfig, PRESETS)
    config.check()
    if config.device == "gpu":
        from experiments.benchmark.gpu.command import run

        run(config)
        return
    out = command.make_folder(config.folder)
    with Nursery() as nursery:
        report = benchmark(config, nursery)
    write_json_atomic(out / REPORT, report)  # first: it took long to measure
    print(tables(report))
    draw(report, out / CHART)
    print(f"\n{out / REPORT} holds every sample, {CHART} the chart")


def benchmark(config: BenchmarkConfig, nursery: Nursery) -> dict[str, Any]:
    """Time every row.

    Args:
      config: what to time, checked.
      nursery: that the rows' processes are forked from.

    Returns:
      The report: configuration, machine, networks, and the groups of rows with their samples.

    Raises:
      InputError: for rows or networks that cannot be timed, or images that cannot be scored.
    """
    load = os.getloadavg()[0]  # what else keeps the machine busy
    drawn = Networks(config.networks)
    rows, left_out = choose_rows(config.rows, config.baselines, drawn.given)
    drawn.check_used([row.network for row in rows])
    for line in left_out:
        print(line, file=sys.stderr)
    groups = plan(config, rows)
    with tempfile.TemporaryDirectory(prefix="mbu-benchmark-") as name:
        folder = Path(name)
        # What is wrong with them should not be found at the end.
        images = _scored_images(config.networks, folder)
        materials = Materials(folder, config, rows, drawn)
        measurer = Measurer(materials, nursery, config)
        measured: list[dict[str, Any]] = []
        repeating: set[str] = set()
        for group in tqdm(groups, desc="benchmark", unit="group", disable=None):
            group = group.without(repeating)
            if not group.entries:
                continue
            found = _measure(measurer, group, left_out if measured else None)
            if found is None:
                continue
            repeating |= without_own_precision(found).keys()
            measured.append(found)
        networks = {name: material.facts for name, material in materials.networks.items()}
        scores = None
        if images is not None:
            different = [row for row in rows if row.name not in repeating]
            scores = score(different, *images, materials, nursery, left_out)
    options: dict[str, Any] = dataclasses.asdict(config)
    del options["out"], options["overwrite"], options["gpu"]  # where it lies is none of its content
    return {
        "config": options,
        "machine": _machine(load),
        "left_out": left_out,
        "networks": networks,
        "groups": measured,
        "scores": scores,
    }


def _measure(measurer: Measurer, group: Group, left_out: list[str] | None) -> dict[str, Any] | None:
    """Time a group; where something was timed before, without the rows that fail in it.

    Args:
      measurer: of the benchmark.
      group: what to time.
      left_out: for a line for each row that fails; None if the first failure is an error.

    Returns:
      What was found; None where every row fails.

    Raises:
      RowFailed: where a row fails and nothing else would be lost.
    """
    while group.entries:
        try:
            return measurer.measure(group)
        except RowFailed as failure:
            if left_out is None:
                raise
            tell_left_out(failure, str(group), left_out)
            group = group.without([failure.row])
    return None


def _scored_images(options: NetworkOptions, folder: Path) -> tuple[Path, NDArray] | None:
    if not options.score:
        return None
    assert options.run is not None, "checked with the other options"
    classes = read_unet(options.run).classes
    return write_images(images_of_run(options.run, "validation", classes=classes), folder)


def _machine(load: float) -> dict[str, Any]:
    about = machine()
    for name in _PEERS:
        try:
            about["versions"][name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    about["instructions"] = None if library.absent() else library.instructions()
    about["load_before"] = load
    return about


if __name__ == "__main__":
    command.run(main)
