"""The process of one row, or of kernels one by one: it does what it is asked, a line at a time."""

import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from experiments.benchmark.carried.checks import agreement
from experiments.benchmark.carried.folder import Folder
from experiments.benchmark.carried.images import batch_of
from experiments.benchmark.carried.nvml import Nvml, first_gpu
from experiments.benchmark.carried.runner import Runner, runner_of

_STANDS_STILL = 5.0  # seconds


def main() -> None:
    """Answer on the socket whose descriptor is given, until it ends."""
    with socket.socket(fileno=int(sys.argv[1])) as connection, connection.makefile("rw") as lines:
        state: dict[str, Any] = {}
        for line in lines:
            try:
                answer = _answer(json.loads(line), state)
            except Exception as error:
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            lines.write(json.dumps(answer) + "\n")
            lines.flush()
        sys.stdout.flush()
    os._exit(0)  # libraries on a GPU have their own, slower ways to end


def _answer(request: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    match request.pop("do"):
        case "load":
            return _load(state, **request)
        case "run":
            return _run(state["runner"], **request)
        case "once":
            return {"seconds": list(_once(state["runner"], **request))}
        case "energy":
            return _energy(state["runner"], **request)
        case "kernels":
            from experiments.benchmark.carried.kernels import device_facts, time_kernels

            folder = Folder(Path(request.pop("folder")))
            return {"samples": time_kernels(folder, **request), "device": device_facts()}
        case other:
            raise ValueError(f"unknown request {other!r}")


def _load(
    state: dict[str, Any], folder: str, row: dict[str, Any], size: list[int], batch: int
) -> dict[str, Any]:
    opened = Folder(Path(folder))
    height, width = size
    picture = opened.arrays(opened.manifest["images"][f"{height}x{width}"])["picture"]
    began = time.perf_counter()
    runner = runner_of(row, (height, width), batch_of(picture, batch), opened)
    found = agreement(row, (height, width), runner.logits(), opened)
    seconds = time.perf_counter() - began
    for _ in range(2):
        runner.run(1)
    state["runner"] = runner
    call = _seconds(lambda: runner.run(3))[0] / 3
    return {
        "facts": runner.facts,
        "agreement": found,
        "memory": runner.memory(),
        "loading_seconds": seconds,
        "call_seconds": call,
    }


def _run(runner: Runner, calls: int) -> dict[str, Any]:
    seconds, more = _seconds(lambda: runner.run(calls))
    return {"seconds": seconds, **more}


def _once(runner: Runner, times: int) -> Iterator[float]:
    for _ in range(times):
        yield _seconds(lambda: runner.run(1))[0]


def _energy(runner: Runner, seconds: float, calls: int) -> dict[str, Any]:
    """Joules of as many bundles of calls as fill the time, from one step of the counter to another.

    It steps some ten times a second: a window that began anywhere would hold idle time before it.
    """
    gpu = first_gpu()
    if gpu is None:
        return {}
    _, before, began = _step(gpu, runner, calls)
    done, joules, ended = 0, before, began
    while ended - began < seconds:
        bundles, joules, ended = _step(gpu, runner, calls)
        done += bundles * calls
    return {"joules": joules - before, "calls": done, "seconds": ended - began}


def _step(gpu: Nvml, runner: Runner, calls: int) -> tuple[int, float, float]:
    """Keep the GPU busy until its counter moves: how many bundles that took, joules, and when."""
    before, bundles, began = gpu.joules(), 0, time.perf_counter()
    while True:
        runner.run(calls)
        bundles += 1
        joules, now = gpu.joules(), time.perf_counter()
        if joules != before:
            return bundles, joules, now
        if now - began > _STANDS_STILL:
            raise RuntimeError("the GPU's counter of energy stands still")


def _seconds[T](call: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


if __name__ == "__main__":
    main()
