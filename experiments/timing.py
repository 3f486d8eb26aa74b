"""Fair timing: interleaved rounds, raw samples, and what they were taken on."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping
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
    first = np.asarray(next(iter(seconds.values())))
    return {
        name: {
            "seconds": samples,
            "median": float(np.median(samples)),
            "ratio": float(np.median(np.asarray(samples) / first)),
        }
        for name, samples in seconds.items()
    }


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


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
