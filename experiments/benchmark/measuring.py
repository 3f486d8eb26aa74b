"""Timing the rows of a group in turn, and what the samples say."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.benchmark.account import account
from experiments.benchmark.config import BenchmarkConfig, TimingOptions
from experiments.benchmark.groups import Group
from experiments.benchmark.materials import Material, Materials
from experiments.benchmark.nursery import Nursery
from experiments.benchmark.processes import Worker, workers
from mbu_jax.saving import load_packed

_LARGEST_DIFFERENCE = 1e-3  # of float32 logits, relative to the largest


def measure(
    group: Group, materials: Materials, nursery: Nursery, config: BenchmarkConfig
) -> dict[str, Any]:
    """Time a group.

    Args:
      group: what to time.
      materials: of the benchmark.
      nursery: for its processes.
      config: of the benchmark.

    Returns:
      The group's shape, and under ``rows`` what was found for each.

    Raises:
      InputError: where a row's process dies.
    """
    jobs = group.jobs(materials, config.size)
    with workers(jobs, nursery) as started:
        samples = time_in_turn(started, config.timing, str(group))
        memory = [worker.ready | worker.finish() for worker in started]
    rows = {}
    for entry, job, runs, said in zip(group.entries, jobs, samples, memory, strict=True):
        material, model = materials.model(entry.row, entry.density)
        row = _summary(runs, group.batch) | _memory(said)
        row |= {"model_bytes": model.stat().st_size, "runtime": said["facts"]}
        if entry.density is not None:
            row["density"] = material.facts["density"]
        if group.section == "layers":
            parts = [run["parts"] for run in runs]
            row["layers"] = account(load_packed(model), group.size, parts)
        if job.logits is not None:
            logits = np.load(job.logits, allow_pickle=False)
            row["agreement"] = agreement(entry.row.engine, material, logits)
        rows[entry.name] = row
    _compare(rows, config.baselines)
    shape = {"threads": group.threads, "size": group.size, "batch": group.batch}
    return {"section": group.section, **shape, "rows": rows}


def time_in_turn(
    started: Sequence[Worker], timing: TimingOptions, title: str
) -> list[list[dict[str, Any]]]:
    """Let processes run in turn (A B C, A B C, ...), so that a drifting machine is fair to all.

    Args:
      started: the processes, warm.
      timing: how often; the number of rounds follows from the first one's time.
      title: of the progress bar.

    Returns:
      By process, what it said of each round.
    """
    first = [worker.run() for worker in started]
    round_seconds = sum(run["seconds"] for run in first)
    rounds = int(timing.seconds / round_seconds)
    rounds = min(max(rounds, timing.min_rounds), timing.max_rounds)
    samples = [[run] for run in first]
    for _ in tqdm(range(1, rounds), desc=title, unit="round", leave=False, disable=None):
        for worker, runs in zip(started, samples, strict=True):
            runs.append(worker.run())
    return samples


def _summary(runs: Sequence[dict[str, Any]], batch: int) -> dict[str, Any]:
    seconds = [run["seconds"] for run in runs]
    low, middle, high = (float(q) for q in np.quantile(seconds, (0.25, 0.5, 0.75)))
    cpu = [run["cpu_seconds"] for run in runs]
    idle = sum(run["idle_seconds"] for run in runs)
    return {
        "seconds": seconds,
        "median": middle,
        "quartiles": [low, high],
        "images_per_second": batch / middle,
        "cpu_seconds": cpu,
        "busy_threads": float(np.median(np.divide(cpu, seconds))),
        "idle_busy_threads": sum(run["idle_cpu_seconds"] for run in runs) / idle,
    }


def _memory(said: dict[str, Any]) -> dict[str, Any]:
    """Peaks, and how far they lie above what the process held without the network."""
    known = said.pop("running_peak_is_known")
    baseline, loading = said["baseline_bytes"], said["loading_peak_bytes"]
    running = said["running_peak_bytes"] if known else None
    return {
        "baseline_bytes": baseline,
        "loading_peak_bytes": loading,
        "running_peak_bytes": running,
        "loading_memory_bytes": _above(loading, baseline),
        "running_memory_bytes": _above(running, baseline),
    }


def _above(peak: int | None, baseline: int | None) -> int | None:
    return None if peak is None or baseline is None else peak - baseline


def _compare(rows: dict[str, dict[str, Any]], baselines: Sequence[str]) -> None:
    """Add how many times as fast as each baseline a row is: the median over rounds."""
    for row in rows.values():
        row["speedup"] = {
            name: float(np.median(np.divide(rows[name]["seconds"], row["seconds"])))
            for name in baselines
            if name in rows
        }


def agreement(engine: str, material: Material, logits: NDArray) -> dict[str, Any]:
    """Compare logits with those that the network should give.

    Args:
      engine: a packed network's engine, or the precision.
      material: the network.
      logits: [H, W, classes].

    Returns:
      Of a packed network the number of logits that are not the same bits, of another the largest
      difference; of both, how many pixels of the masks differ.

    Raises:
      RuntimeError: where the exported float32 network gives other logits than the model.
    """
    wanted = material.logits
    assert wanted is not None, "logits are asked for where there are some to compare with"
    different = int((_classes(logits) != _classes(wanted)).sum())
    pixels = int(np.prod(wanted.shape[:2]))
    masks = {"pixels": pixels, "different_pixels": different}
    if "reference" in material.facts:
        changed = int((logits.view(np.uint32) != wanted.view(np.uint32)).sum())
        return {"logits": wanted.size, "different_logits": changed, **masks}
    difference, largest = (float(np.abs(x).max()) for x in (logits - wanted, wanted))
    if engine == "fp32" and not difference <= _LARGEST_DIFFERENCE * largest:
        raise RuntimeError(
            f"the float32 network differs from the model by {difference:g} where logits reach "
            f"{largest:g}"
        )
    return {"largest_logit": largest, "largest_difference": difference, **masks}


def _classes(logits: NDArray) -> NDArray:
    return logits[..., 0] > 0 if logits.shape[-1] == 1 else logits.argmax(axis=-1)
