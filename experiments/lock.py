"""One process at a time, among all that share a folder."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from mbu_jax.errors import InputError


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Try to be the only process at a file or folder; the system ends the lock of one that dies.

    Args:
      path: what is worked at. It need not exist: the lock is a file beside it, since a run begins
        in an empty folder, and stays, since another process may be about to take it.

    Yields:
      Whether no other process is at it.

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
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = True
        except BlockingIOError:
            ours = False
        except OSError as error:
            raise InputError(
                f"{lock} cannot be locked ({error.strerror}); choose another folder"
            ) from error
        yield ours
