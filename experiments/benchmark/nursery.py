"""The process that the rows' processes are forked from: Python and JAX are imported once, here.

It has one thread and starts no backend, so that forking is safe. Each row's process sets its cores
before its runtime counts them.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, Self

_ROOT = Path(__file__).parents[2]
_LONGEST = 1024  # bytes of a message


class Nursery:
    """Starts processes, and tells how they ended; a context manager."""

    def __enter__(self) -> Self:
        self._control, theirs = socket.socketpair()
        self._lock = threading.Lock()
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {
            "PYTHONPATH": path,
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "JAX_PLATFORMS": "cpu",
            "OPENBLAS_NUM_THREADS": "1",  # others would not survive forking
        }
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._process.wait()

    def fork(self, connection: socket.socket, errors: IO[Any]) -> int:
        """Start a process that serves one row.

        Args:
          connection: that it talks through; this side closes its copy.
          errors: file for what it prints.

        Returns:
          Its number.
        """
        with self._lock, connection:
            fds = [connection.fileno(), errors.fileno()]
            socket.send_fds(self._control, [json.dumps({"fork": True}).encode()], fds)
            return self._answer()

    def wait(self, pid: int) -> int:
        """Wait until a process ends, and forget it.

        Args:
          pid: its number.

        Returns:
          Its exit code, or minus the signal that ended it.
        """
        with self._lock:
            self._control.sendall(json.dumps({"wait": pid}).encode())
            return self._answer()

    def _answer(self) -> int:
        answer = self._control.recv(_LONGEST)
        if not answer:
            raise RuntimeError(f"the process {__name__} ended with code {self._process.wait()}")
        return int(answer)


def main() -> None:
    """Import what rows need, then fork and wait as asked."""
    from experiments.benchmark import worker
    from experiments.benchmark.runtimes import packed, xla

    del packed, xla  # imported for those that are forked
    control = socket.socket(fileno=int(sys.argv[1]))
    while True:
        request, fds, _, _ = socket.recv_fds(control, _LONGEST, 2)
        if not request:
            return
        message = json.loads(request)
        if "wait" in message:
            _, status = os.waitpid(message["wait"], 0)
            control.sendall(str(os.waitstatus_to_exitcode(status)).encode())
            continue
        if (pid := os.fork()) == 0:
            control.close()
            worker.serve(*fds)
        for fd in fds:
            os.close(fd)
        control.sendall(str(pid).encode())


if __name__ == "__main__":
    main()
