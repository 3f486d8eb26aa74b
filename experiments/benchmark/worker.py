"""The process of one row: loads it, and runs it once whenever it is asked to.

It reads one JSON object a line, first the `Job`, and answers with one a line. Between two runs it
waits for its input and takes no processor time.
"""

import io
import json
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from experiments.benchmark.job import Job
from experiments.benchmark.memory import peak_bytes, reset_peak, resident_bytes
from experiments.benchmark.runtimes import runtime_class
from experiments.benchmark.runtimes.runtime import Runtime

_QUICK = 2.0  # seconds; what takes longer is warm after one run
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")


def serve(connection: int, errors: int) -> NoReturn:
    """Answer until the connection ends, then end this process.

    Args:
      connection: file descriptor of a socket.
      errors: file descriptor for what libraries print, and for a traceback.
    """
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    code = 1
    try:
        with socket.socket(fileno=connection) as stream, stream.makefile("rw") as lines:
            code = _serve(lines)
    except BaseException:
        traceback.print_exc()
    os._exit(code)  # what this process was forked from has its own way to end


def _serve(lines: Any) -> int:
    def answer(message: dict[str, Any]) -> None:
        lines.write(json.dumps(message) + "\n")
        lines.flush()

    job_line = lines.readline()
    if not job_line:
        return 0
    try:
        for message in _answers(Job.from_dict(json.loads(job_line)), lines):
            answer(message)
    except Exception as error:
        traceback.print_exc()
        answer({"error": f"{type(error).__name__}: {error}"})
        return 1
    return 0


def _answers(job: Job, requests: Any) -> Iterator[dict[str, Any]]:
    """What is known once the network is warm, then the times of every run, at last the memory.

    Where masks of all images are asked for, only what is known once they are written.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job.cores)
    os.environ |= dict.fromkeys(_THREAD_VARIABLES, str(job.threads))
    images = np.load(job.images, mmap_mode="r", allow_pickle=False)
    if job.masks is None:
        images = np.array(images[: job.batch])
    cls = runtime_class(job.runtime)
    cls.start(job)
    reset_peak()
    baseline = resident_bytes()
    runtime = cls(job, (job.batch, *images.shape[1:]))
    if job.masks is not None:
        segmented = [runtime.mask(image) for image in images]
        np.save(job.masks, np.stack(segmented), allow_pickle=False)
        yield {"facts": runtime.facts}
        return
    x = runtime.prepare(images)
    call: Callable[[], Any] = _end_to_end(job, runtime) if job.picture else lambda: runtime.run(x)
    began = time.perf_counter()
    first = call()
    if time.perf_counter() - began < _QUICK:
        call()
    loading_peak = peak_bytes()
    resets = reset_peak()
    if job.logits is not None:
        np.save(job.logits, runtime.logits(first)[0], allow_pickle=False)
    del first
    yield {
        "facts": runtime.facts,
        "baseline_bytes": baseline,
        "loading_peak_bytes": loading_peak,
        "running_peak_is_known": resets,
    }
    ended, cpu_ended = time.perf_counter(), time.process_time()
    for request in requests:
        if json.loads(request) == "stop":
            yield {"running_peak_bytes": peak_bytes()}
            return
        began, cpu_began = time.perf_counter(), time.process_time()
        idle = {"idle_seconds": began - ended, "idle_cpu_seconds": cpu_began - cpu_ended}
        call()
        ended, cpu_ended = time.perf_counter(), time.process_time()
        run = {"seconds": ended - began, "cpu_seconds": cpu_ended - cpu_began, **idle}
        measured = {"parts": runtime.parts, "ceilings": runtime.ceilings}
        yield run if runtime.parts is None else run | measured


def _end_to_end(job: Job, runtime: Runtime) -> Callable[[], None]:
    """PNG file in, PNG file of the mask out."""
    assert job.picture is not None
    assert job.mask is not None
    picture, mask = Path(job.picture), Path(job.mask)
    mode = "L" if job.unet["in_channels"] == 1 else "RGB"

    def call() -> None:
        with Image.open(picture) as file:
            image = np.asarray(file.convert(mode))
        if mode == "L":
            image = image[..., None]
        content = io.BytesIO()
        Image.fromarray(runtime.mask(image)).save(content, "PNG")
        mask.write_bytes(content.getvalue())

    return call
