"""Fair timing: interleaved rounds, raw samples, and what they were taken on."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm


def time_interleaved(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Time functions in turn (A B C, A B C, ...), so that a drifting machine is fair to all.

    Args:
      calls: by name; each waits for its own result and is warm.
      rounds: how often each is timed.

    Returns:
      By name, seconds of every round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in tqdm(range(rounds), desc="timing", disable=None):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def compare(seconds: Mapping[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Summarize samples as medians and as ratios to the first row.

    Args:
      seconds: from `time_interleaved`.

    Returns:
      By name: ``seconds``, their ``median``, and ``ratio``: the median over rounds of its time
      over the first row's in that round.

    Example:
      >>> compare({"a": [1.0, 3.0], "b": [2.0, 3.0]})["b"]
      {'seconds': [2.0, 3.0], 'median': 2.5, 'ratio': 1.5}
    """
    first = next(iter(seconds.values()))
    return {
        name: {
            "seconds": samples,
            "median": float(np.median(samples)),
            "ratio": median_ratio(samples, first),
        }
        for name, samples in seconds.items()
    }


def median_ratio(seconds: Sequence[float], reference: Sequence[float]) -> float:
    """Compare samples with others of the same rounds, which a machine that drifts leaves alone.

    Args:
      seconds: one a round.
      reference: those of the row to compare with.

    Returns:
      The median over rounds of the time over the reference's in that round.

    Raises:
      ValueError: where their rounds are not as many.

    Example:
      >>> median_ratio([2.0, 9.0, 4.0], [1.0, 3.0, 1.0])
      3.0
    """
    pairs = zip(seconds, reference, strict=True)
    return float(np.median([ours / theirs for ours, theirs in pairs]))


def machine() -> dict[str, Any]:
    """Describe what the samples are taken on.

    Returns:
      Device, number of devices, CPU, cores that this process may use, versions.
    """
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "versions": {p: importlib.metadata.version(p) for p in ("jax", "jaxlib", "flax", "optax")},
    }


def machine_text(about: Mapping[str, Any]) -> str:
    """Name a machine in a report.

    Args:
      about: what `machine` gave.

    Returns:
      Its accelerators and their number where it has some, CPU, cores and versions.

    Example:
      >>> about = {"device": "H100", "devices": 2, "cpu": "Xeon", "cores": 8}
      >>> machine_text(about | {"versions": {"jax": "0.12.0"}})
      '2 H100, Xeon, 8 cores (jax 0.12.0)'
    """
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    device = about["device"]
    name = about["cpu"] if device == "cpu" else f"{about['devices']} {device}, {about['cpu']}"
    return f"{name}, {about['cores']} cores ({versions})"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
