"""One process at a time, among all that share a folder."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mbu_jax.errors import InputError


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Try to be the only process at a file or folder; the system ends the lock of one that dies.

    Args:
      path: what is worked at. It need not exist: the lock is a file beside it, since a run begins
        in an empty folder, and stays, since another process may be about to take it.
      wait: whether to wait for another process, which is said, instead of giving up.

    Yields:
      Whether no other process is at it; with `wait` always True.

    Raises:
      InputError: where a lock cannot be made.

    Example:
      >>> with locked(Path("run")) as first, locked(Path("run")) as second:
      ...     print(first, second)
      True False
    """
    lock = path.with_name(path.name + ".lock")
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(lock.open("w"))
            ours = _taken(file)
            if wait and not ours:
                print(f"waiting for another process that is at {path}", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
                ours = True
        except OSError as error:
            raise InputError(
                f"{lock} cannot be locked ({error.strerror}); choose another folder"
            ) from error
        yield ours


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
