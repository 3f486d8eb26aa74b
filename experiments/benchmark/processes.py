"""The processes that run the rows, seen from the one that asks them in turn."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from tqdm import tqdm

from experiments.benchmark.job import Job
from experiments.benchmark.nursery import Nursery
from mbu_jax.errors import InputError


class RowFailed(InputError):
    """A row's process failed or died.

    Args:
      job: what it was to run.
      reason: what is known of it.

    Attributes:
      row: its name in the group.
    """

    def __init__(self, job: Job, reason: str) -> None:
        super().__init__(
            f"row {job.row} failed, threads {job.threads}, batch {job.batch} ({reason}); leave it "
            "out with --rows, or choose smaller --sizes"
        )
        self.row = job.row


def tell_left_out(failure: RowFailed, where: str, left_out: list[str]) -> None:
    """Go on without a row, so that what the others took long for is not lost.

    Args:
      failure: of the row.
      where: it is left out.
      left_out: of the report; gets a line, which the terminal shows at once.
    """
    left_out.append(f"left out of {where}: {failure}")
    tqdm.write(left_out[-1], file=sys.stderr)


class Worker:
    """One row's process.

    Args:
      job: what it runs.
      nursery: that it is forked from.

    Attributes:
      ready: what it said once it was loaded and warm.
      pid: its number.
    """

    def __init__(self, job: Job, nursery: Nursery) -> None:
        self.job = job
        self._nursery = nursery
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`)
        self._connection, theirs = socket.socketpair()
        self._lines = self._connection.makefile("rw")
        self._code: int | None = None
        self.pid = nursery.fork(theirs, self._errors)

    def load(self) -> Self:
        """Let it load its network and warm up; wait until it has.

        Returns:
          Itself.

        Raises:
          RowFailed: where it fails or dies, as the other methods do.
        """
        self.ready = self._ask(dataclasses.asdict(self.job))
        return self

    def run(self) -> dict[str, Any]:
        """Let it run once.

        Returns:
          Seconds of the run by the clock and of its processor time (``seconds``,
          ``cpu_seconds``), and of the wait before it (``idle_seconds``, ``idle_cpu_seconds``); of
          a runtime that times its parts also those (``parts``).
        """
        return self._ask("run")

    def finish(self) -> dict[str, Any]:
        """End it.

        Returns:
          Its last words.
        """
        return self._ask("stop")

    def close(self) -> None:
        """End it, whatever it does."""
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)
            self._wait()
        with contextlib.suppress(BrokenPipeError):
            self._lines.close()
        self._connection.close()
        self._errors.close()

    def _ask(self, message: Any) -> dict[str, Any]:
        line = ""
        # Where it is dead, the answer is missing.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._lines.write(json.dumps(message) + "\n")
            self._lines.flush()
            line = self._lines.readline()
        answer = json.loads(line) if line else {"error": self._death()}
        if "error" in answer:
            raise RowFailed(self.job, answer["error"])
        return answer

    def _wait(self) -> int:
        if self._code is None:
            self._code = self._nursery.wait(self.pid)
        return self._code

    def _death(self) -> str:
        code = self._wait()
        if code < 0:
            name = signal.Signals(-code).name
            more = ", perhaps for want of memory" if name == "SIGKILL" else ""
            return f"its process was ended by {name}{more}"
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines()
        return f"its process ended with code {code}" + (f": {said[-1]}" if said else "")


@contextlib.contextmanager
def workers(jobs: Sequence[Job], nursery: Nursery) -> Iterator[list[Worker]]:
    """Start a process for every job, and end them all in the end.

    Args:
      jobs: what to run.
      nursery: that they are forked from.

    Yields:
      The processes, loaded and warm.

    Raises:
      RowFailed: where one does not load.
    """
    started: list[Worker] = []
    try:
        for job in jobs:
            started.append(Worker(job, nursery))
        # No more at once than there are cores: loading takes one.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(Worker.load, started))
        yield started
    finally:
        for worker in started:
            worker.close()
