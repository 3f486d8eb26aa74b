"""Timing the rows of a group in turn, and what the samples say."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.benchmark.account import account
from experiments.benchmark.carried.checks import finite
from experiments.benchmark.config import BenchmarkConfig, TimingOptions
from experiments.benchmark.groups import Entry, Group
from experiments.benchmark.job import Job
from experiments.benchmark.materials import Material, Materials
from experiments.benchmark.memory import available_bytes
from experiments.benchmark.nursery import Nursery
from experiments.benchmark.processes import Worker, workers
from experiments.timing import median_ratio
from mbu_jax.saving import load_packed

_SHARE_OF_MEMORY = 0.85  # that processes may fill
_PROCESS_BYTES = 3e8  # of any of them, Python and its libraries
_LARGEST_DIFFERENCE = 1e-3  # of float32 logits, relative to the largest


class Measurer:
    """Times groups, and learns from each how much memory a row needs.

    Args:
      materials: of the benchmark.
      nursery: for the rows' processes.
      config: of the benchmark.
    """

    def __init__(self, materials: Materials, nursery: Nursery, config: BenchmarkConfig) -> None:
        self._materials, self._nursery, self._config = materials, nursery, config
        self._bytes_per_pixel: dict[str, float] = {}

    def measure(self, group: Group) -> dict[str, Any]:
        """Time a group.

        Args:
          group: what to time.

        Returns:
          The group's shape, and under ``rows`` what was found for each. Rows whose memory does not
          suffice for all of them at once are timed in several shifts.

        Raises:
          RowFailed: where a row's process fails or dies.
        """
        jobs = group.jobs(self._materials, self._config.size)
        pixels = group.batch * group.size**2
        needs = [pixels * self._bytes_per_pixel.get(e.row.name, 0) for e in group.entries]
        rows: dict[str, dict[str, Any]] = {}
        for shift, members in enumerate(shifts(needs, available_bytes())):
            chosen = [jobs[i] for i in members]
            with workers(chosen, self._nursery) as started:
                samples = time_in_turn(started, self._config.timing, str(group))
                said = [worker.ready | worker.finish() for worker in started]
            for i, runs, words in zip(members, samples, said, strict=True):
                entry = group.entries[i]
                row = {"shift": shift, **self._row(group, entry, jobs[i], runs, words)}
                rows[entry.name] = row
                if group.section == "latency" and row["running_memory_bytes"] is not None:
                    self._bytes_per_pixel[entry.name] = row["running_memory_bytes"] / pixels
        rows = {entry.name: rows[entry.name] for entry in group.entries}
        compare(rows, self._config.baselines)
        shape = {"threads": group.threads, "size": group.size, "batch": group.batch}
        return {"section": group.section, **shape, "rows": rows}

    def _row(
        self,
        group: Group,
        entry: Entry,
        job: Job,
        runs: Sequence[dict[str, Any]],
        said: dict[str, Any],
    ) -> dict[str, Any]:
        material, model = self._materials.model(entry.row, entry.density)
        row = _summary(runs, group.batch) | _memory(said)
        row |= {"model_bytes": model.stat().st_size, "runtime": said["facts"]}
        if entry.density is not None:
            row["density"] = material.facts["density"]
        if group.section == "layers":
            parts, ceilings = ([run[key] for run in runs] for key in ("parts", "ceilings"))
            # Other work only lowers them.
            row["ceilings"] = {kind: max(found[kind] for found in ceilings) for kind in ceilings[0]}
            row["layers"] = account(load_packed(model), group.size, parts, row["ceilings"])
        if job.logits is not None:
            logits = np.load(job.logits, allow_pickle=False)
            row["agreement"] = agreement(entry.row.engine, material, logits)
        return row


def shifts(needs: Sequence[float], available: float | None) -> list[list[int]]:
    """Divide processes so that those that are alive at once fit into memory.

    Args:
      needs: bytes that each takes besides what every process does.
      available: bytes in all, or None where it is not known.

    Returns:
      Which processes are alive together, as few times as a simple rule finds: the largest first,
      each in the first shift with room. One that fits nowhere is alone.

    Example:
      >>> shifts([5e9, 1e9, 9e9], available=15e9)
      [[1, 2], [0]]
    """
    if available is None:
        return [list(range(len(needs)))]
    room = _SHARE_OF_MEMORY * available
    found: list[list[int]] = []
    for i in sorted(range(len(needs)), key=lambda i: -needs[i]):
        for shift in found:
            if sum(needs[j] + _PROCESS_BYTES for j in (*shift, i)) <= room:
                shift.append(i)
                break
        else:
            found.append([i])
    return [sorted(shift) for shift in found]


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


def compare(rows: dict[str, dict[str, Any]], baselines: Sequence[str]) -> None:
    """Add ``speedup``: how many times as fast as each baseline a row is.

    It is the median over rounds, or of rows that were in different shifts the quotient of medians.

    Args:
      rows: by name; changed.
      baselines: names of rows, of which those that are not there are passed over.
    """
    for row in rows.values():
        row["speedup"] = {}
        for name in baselines:
            if name not in rows:
                continue
            other = rows[name]
            row["speedup"][name] = (
                median_ratio(other["seconds"], row["seconds"])
                if other["shift"] == row["shift"]
                else other["median"] / row["median"]
            )


def without_own_precision(group: dict[str, Any]) -> dict[str, str]:
    """Find the rows of a group that this processor cannot run as they are named.

    Args:
      group: what `Measurer.measure` gave.

    Returns:
      By row, the precision that OpenVINO took instead of bfloat16.
    """
    return {
        name: row["runtime"]["inference_precision_hint"]
        for name, row in group["rows"].items()
        if row["runtime"].get("precision") == "bf16"
        and row["runtime"]["inference_precision_hint"] != "bf16"
    }


def agreement(engine: str, material: Material, logits: NDArray) -> dict[str, Any]:
    """Compare logits with those that the network should give.

    Args:
      engine: a packed network's engine, or the precision.
      material: the network.
      logits: [H, W, classes].

    Returns:
      Of a packed network the number of logits that are not the same bits, of another the largest
      difference, None where it is no number; of both, how many pixels of the masks differ.

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
    return {"largest_logit": largest, "largest_difference": finite(difference), **masks}


def _classes(logits: NDArray) -> NDArray:
    return logits[..., 0] > 0 if logits.shape[-1] == 1 else logits.argmax(axis=-1)
