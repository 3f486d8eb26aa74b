"""python -m experiments.benchmark --device gpu: export, run, and show."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

from experiments.benchmark.carried.folder import FORMAT
from experiments.benchmark.carried.main import RESULTS
from experiments.benchmark.carried.nvml import first_gpu
from experiments.benchmark.config import CHART, BenchmarkConfig
from experiments.benchmark.gpu.charts import draw
from experiments.benchmark.gpu.exporting import Exporter
from experiments.benchmark.gpu.programs import Machine
from experiments.benchmark.gpu.tables import tables
from experiments.benchmark.gpu.tuned_file import write_tuned
from experiments.benchmark.gpu.writing import Writer
from experiments.command import make_folder
from mbu_jax.errors import InputError
from mbu_jax.export import COMPUTE_CAPABILITIES
from mbu_jax.files import write_json_atomic

_LARGEST_REPORT = 2**28
_PARTS = {
    "made_for": dict,
    "machine": dict,
    "networks": dict,
    "groups": list,
    "layers": list,
    "ceilings": dict,
    "rows": dict,
    "not_reached": list,
}


def run(config: BenchmarkConfig) -> None:
    """Do what the options ask for.

    Args:
      config: checked.

    Raises:
      InputError: where there is no GPU and none is needed for what was asked.
    """
    options = config.gpu
    if options.results is not None:
        show(read_report(options.results), config.folder)
        return
    machine = _machine(config)
    # Programs are exported here and run in processes of their own, which need the GPU's memory.
    jax.config.update("jax_platforms", "cpu")
    if options.export_to is not None:
        size = export_folder(config, machine, options.export_to)
        print(
            f"{options.export_to}: {size / 1e6:.1f} MB; on a machine with the GPU, JAX "
            f"{jax.__version__} and NumPy:\n\n"
            f"python {options.export_to}/run.py --out results --minutes 8"
        )
        return
    out = make_folder(config.folder)
    with tempfile.TemporaryDirectory(prefix="mbu-benchmark-") as name:
        folder = Path(name, "folder")
        export_folder(config, machine, folder)
        command = [sys.executable, str(folder / "run.py"), "--out", str(out)]
        command += ["--minutes", str(options.minutes)]
        if config.overwrite:
            command.append("--overwrite")
        code = subprocess.run(command, check=False).returncode
    if code:
        raise InputError(f"the benchmark ended with code {code}; see above")
    show(read_report(out / RESULTS), out)


def export_folder(config: BenchmarkConfig, machine: Machine, path: Path) -> int:
    """Write the benchmark for another machine.

    Args:
      config: checked.
      machine: what for.
      path: of the folder.

    Returns:
      Bytes of its files.
    """
    return Exporter(config, machine, Writer(path)).write()


def show(report: dict[str, Any], out: Path) -> None:
    """Print a report, draw it, and write what kernels may be tuned by.

    Args:
      report: from `read_report`.
      out: folder for its JSON, the chart, and of a GPU a file of measured tiles.
    """
    print(tables(report))
    make_folder(out)
    write_json_atomic(out / RESULTS, report)
    draw(report, out / CHART)
    print(f"\n{out / RESULTS} holds every sample, {CHART} the chart")
    if line := write_tuned(report, out):
        print(line)


def read_report(path: Path) -> dict[str, Any]:
    """Read what run.py wrote.

    Args:
      path: of the file.

    Returns:
      The report.

    Raises:
      InputError: for a file that is none.
    """
    remedy = "give the benchmark.json that run.py wrote"
    if not path.is_file():
        raise InputError(f"{path} is no file; {remedy}")
    if path.stat().st_size > _LARGEST_REPORT:
        raise InputError(f"{path} is too large; {remedy}")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is no JSON ({error}); {remedy}") from error
    good = isinstance(report, dict) and report.get("format") == FORMAT
    if not (good and _holds(report, _PARTS) and _holds(report["machine"], {"versions": dict})):
        raise InputError(f"{path} is no report of the GPU benchmark; {remedy}")
    return report


def _holds(found: dict[str, Any], parts: dict[str, type]) -> bool:
    return all(isinstance(found.get(name), kind) for name, kind in parts.items())


def _machine(config: BenchmarkConfig) -> Machine:
    options = config.gpu
    if options.export_platform == "cpu":
        return Machine("cpu", None)
    capability = options.compute_capability
    if capability is None or options.export_to is None:
        gpu = first_gpu()
        if gpu is None:
            raise InputError(
                "there is no NVIDIA GPU here; give --export-to FOLDER --compute-capability 90, "
                "and run the folder's run.py on a machine with one"
            )
        capability = gpu.describe()["compute_capability"]
    if capability not in COMPUTE_CAPABILITIES:
        known = ", ".join(map(str, COMPUTE_CAPABILITIES))
        raise InputError(f"compute capability {capability} has no kernels; choose one of {known}")
    return Machine("cuda", capability)
