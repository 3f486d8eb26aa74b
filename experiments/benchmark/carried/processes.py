"""Processes that rows and kernels run in, each ended where it takes too long or breaks."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

_ROOT = Path(__file__).parents[3]
_WORKER = "experiments.benchmark.carried.worker"


class Failed(Exception):
    """A process that gave no answer, and why."""


class Process:
    """A process of `experiments.benchmark.carried.worker`; a context manager.

    Args:
      platform: that JAX runs on there.
    """

    def __init__(self, platform: str) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`)
        self._connection, theirs = socket.socketpair()
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {
            "PYTHONPATH": path,
            "PYTHONSAFEPATH": "1",  # what lies in the current folder is not meant
            "JAX_PLATFORMS": platform,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # in which the driver's library numbers GPUs
            # Other processes need memory as well.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _WORKER, str(theirs.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, within: float, /, **request: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Args:
          within: seconds to wait at most; the process is ended then.
          **request: what to do.

        Returns:
          The answer.

        Raises:
          Failed: where there is none, or it says that something went wrong.
        """
        self.send(**request)
        return self.answer(within)

    def send(self, **request: Any) -> None:
        """Send a request; `answer` waits for what it gives.

        Args:
          **request: what to do.
        """
        # Where it is dead, the answer will be missing.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.sendall(json.dumps(request).encode() + b"\n")

    def answer(self, seconds: float) -> dict[str, Any]:
        """Wait for an answer.

        Args:
          seconds: to wait at most; the process is ended then.

        Returns:
          The answer.

        Raises:
          Failed: where there is none, or it says that something went wrong.
        """
        until = time.monotonic() + seconds
        while b"\n" not in self._received:
            ready, _, _ = select.select(
                [self._connection], [], [], max(0, until - time.monotonic())
            )
            if not ready:
                self.close()
                raise Failed(f"it took longer than the {seconds:.0f} s that were left for it")
            part = b""
            with contextlib.suppress(ConnectionResetError):
                part = self._connection.recv(1 << 16)
            if not part:
                raise Failed(self._death())
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        found = json.loads(line)
        if "error" in found:
            raise Failed(" ".join(found["error"].split())[:500])
        return found

    def close(self) -> None:
        """End it, whatever it does, and what it started."""
        if self._errors.closed:
            return
        self._connection.close()
        if self._process.poll() is None:
            # A compiler that it started would keep a core busy.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._errors.close()

    def _death(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        return f"its process ended {how}" + (f": {said[-1][:300]}" if said else "")
