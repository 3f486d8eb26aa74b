"""The process of one row: loads it, and runs it once whenever it is asked to.

It reads one JSON object a line from standard input, first the `Job`, and answers with one a line.
Between two runs it waits for its input and takes no processor time.
"""

import io
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.benchmark.job import Job
from experiments.benchmark.memory import peak_bytes, reset_peak, resident_bytes
from experiments.benchmark.runtimes import runtime_class
from experiments.benchmark.runtimes.runtime import Runtime

_QUICK = 2.0  # seconds; what takes longer is warm after one run


def main() -> None:
    """Answer until standard input ends."""
    # Libraries may print; the answers go where they do not.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=answers)

    try:
        fields = json.loads(sys.stdin.readline())
        _serve(Job(**fields | {"cores": tuple(fields["cores"])}), answer)
    except Exception as error:
        traceback.print_exc()
        answer({"error": f"{type(error).__name__}: {error}"})
        sys.exit(1)


def _serve(job: Job, answer: Callable[[dict[str, Any]], None]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job.cores)  # before any library counts the cores
    images = np.load(job.images, allow_pickle=False)[: job.batch]
    cls = runtime_class(job.runtime)
    cls.start()
    reset_peak()
    baseline = resident_bytes()
    runtime = cls(job, images.shape)
    call = _end_to_end(job, runtime) if job.picture else _latency(job, runtime, images)
    began = time.perf_counter()
    call()
    if time.perf_counter() - began < _QUICK:
        call()
    loading_peak = peak_bytes()
    resets = reset_peak()
    answer(
        {
            "facts": runtime.facts,
            "baseline_bytes": baseline,
            "loading_peak_bytes": loading_peak,
            "running_peak_is_known": resets,
        }
    )
    idle_since, cpu_since = time.perf_counter(), time.process_time()
    while line := sys.stdin.readline():
        began, cpu_began = time.perf_counter(), time.process_time()
        if json.loads(line) == "stop":
            answer({"running_peak_bytes": peak_bytes()})
            return
        call()
        ended, cpu_ended = time.perf_counter(), time.process_time()
        answer(
            {
                "seconds": ended - began,
                "cpu_seconds": cpu_ended - cpu_began,
                "idle_seconds": began - idle_since,
                "idle_cpu_seconds": cpu_began - cpu_since,
            }
        )
        idle_since, cpu_since = time.perf_counter(), time.process_time()


def _latency(job: Job, runtime: Runtime, images: np.ndarray) -> Callable[[], Any]:
    x = runtime.prepare(images)
    if job.logits is not None:
        first = runtime.logits(runtime.run(x))[0]
        np.save(job.logits, first, allow_pickle=False)
    return lambda: runtime.run(x)


def _end_to_end(job: Job, runtime: Runtime) -> Callable[[], None]:
    """PNG file in, PNG file of the mask out."""
    assert job.picture is not None
    assert job.mask is not None
    picture, mask = Path(job.picture), Path(job.mask)

    def call() -> None:
        with Image.open(picture) as file:
            image = np.asarray(file.convert("RGB"))
        if job.unet["in_channels"] == 1:
            image = np.asarray(Image.fromarray(image).convert("L"))[..., None]
        content = io.BytesIO()
        Image.fromarray(runtime.mask(image)).save(content, "PNG")
        mask.write_bytes(content.getvalue())

    return call


if __name__ == "__main__":
    main()
