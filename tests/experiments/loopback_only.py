"""Runs a module, and writes down every address beyond this machine that it looks up or calls.

python loopback_only.py LOG MODULE [ARGUMENTS]
"""

import runpy
import signal
import socket
import sys
from pathlib import Path
from typing import Any

LOG = Path(sys.argv[1])
_connect, _connect_ex, _look_up = (
    socket.socket.connect,
    socket.socket.connect_ex,
    socket.getaddrinfo,
)


def check(host: Any) -> None:
    if isinstance(host, bytes):
        host = host.decode()
    # A path is a socket on this machine.
    if host in (None, "", "localhost", "::1") or host.startswith(("127.", "/")):
        return
    with LOG.open("a") as log:
        log.write(f"{host}\n")
    raise OSError(f"{host} is beyond this machine")


def connect(self: socket.socket, address: Any) -> None:
    check(address[0] if isinstance(address, tuple) else address)
    return _connect(self, address)


def connect_ex(self: socket.socket, address: Any) -> int:
    check(address[0] if isinstance(address, tuple) else address)
    return _connect_ex(self, address)


def look_up(host: Any, *arguments: Any, **options: Any) -> Any:
    check(host)
    return _look_up(host, *arguments, **options)


if __name__ == "__main__":
    # A shell's background jobs, and what they start, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    socket.socket.connect, socket.socket.connect_ex = connect, connect_ex  # ty: ignore
    socket.getaddrinfo = look_up
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
