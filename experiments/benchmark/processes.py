"""The processes that run the rows, seen from the one that asks them in turn."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from experiments.benchmark.job import Job
from mbu_jax.errors import InputError

_ROOT = Path(__file__).parents[2]
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")


class Worker:
    """One row's process.

    Args:
      job: what it runs.
      cache: folder for XLA's compiled programs, or None.
      program: of the process, by default `experiments.benchmark.worker`.

    Attributes:
      ready: what it said once it was loaded and warm.
    """

    def __init__(
        self,
        job: Job,
        cache: str | None = None,
        program: Sequence[str] = ("-m", "experiments.benchmark.worker"),
    ) -> None:
        self.job = job
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`)
        self._process = subprocess.Popen(
            [sys.executable, *program],
            env=_environment(job, cache),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def load(self) -> Self:
        """Let it load its network and warm up; wait until it has.

        Returns:
          Itself.

        Raises:
          InputError: where it dies.
        """
        self.ready = self._ask(dataclasses.asdict(self.job))
        return self

    def run(self) -> dict[str, float]:
        """Let it run once.

        Returns:
          Seconds by `time.perf_counter` and of its processor time, of the run (``seconds``,
          ``cpu_seconds``) and of the wait before it (``idle_seconds``, ``idle_cpu_seconds``).

        Raises:
          InputError: where it dies.
        """
        return self._ask("run")

    def finish(self) -> dict[str, Any]:
        """End it.

        Returns:
          Its last words.

        Raises:
          InputError: where it dies before.
        """
        return self._ask("stop")

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _ask(self, message: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        # Where it is dead already, the answer is missing too.
        with contextlib.suppress(BrokenPipeError):
            stdin.write(json.dumps(message) + "\n")
            stdin.flush()
        line = stdout.readline()
        answer = json.loads(line) if line else {"error": self._death()}
        if "error" in answer:
            raise InputError(
                f"row {self.job.row} failed with {self.job.threads} threads on {self.job.batch} "
                f"images ({answer['error']}); leave it out with --rows, or choose smaller --sizes"
            )
        return answer

    def _death(self) -> str:
        code = self._process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            more = ", perhaps for want of memory" if name == "SIGKILL" else ""
            return f"its process was ended by {name}{more}"
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines()
        return f"its process ended with code {code}" + (f": {said[-1]}" if said else "")


@contextlib.contextmanager
def workers(jobs: Sequence[Job], cache: str | None = None) -> Iterator[list[Worker]]:
    """Start a process for every job, and end them all in the end.

    Args:
      jobs: what to run.
      cache: folder for XLA's compiled programs, or None.

    Yields:
      The processes, loaded and warm.

    Raises:
      InputError: where one dies.
    """
    started: list[Worker] = []
    try:
        started += [Worker(job, cache) for job in jobs]
        # No more at once than there are cores: loading takes one.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(Worker.load, started))
        yield started
    finally:
        for worker in started:
            worker.close()


def _environment(job: Job, cache: str | None) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    changed = {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2", "JAX_PLATFORMS": "cpu"}
    changed |= dict.fromkeys(_THREAD_VARIABLES, str(job.threads))
    if cache is not None:
        # Programs are compiled for a number of threads, which XLA's cache does not know.
        changed["JAX_COMPILATION_CACHE_DIR"] = str(Path(cache, f"threads-{job.threads}"))
    return os.environ | changed
