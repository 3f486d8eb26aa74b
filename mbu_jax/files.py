"""Files that are complete or not there: written beside their place, then renamed."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

_TEMPORARY_PREFIX, _TEMPORARY_SUFFIX = ".writing-", ".tmp"


def write_bytes_atomic(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace a file's content in one step: readers see the old content or the new, never a mix.

    The content goes to a temporary file beside ``path``, is forced to the disk, and takes the
    name over. If anything fails (a full disk, say), the old file stays as it was.

    Args:
      path: The file to write. Its folder must exist.
      content: All of the new content.

    Raises:
      OSError: If the content cannot be written.

    Example:
      >>> write_bytes_atomic("note.txt", b"done")
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(_TEMPORARY_SUFFIX, _TEMPORARY_PREFIX, path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        make_readable(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def make_readable(path: Path) -> None:
    """Make a temporary file, which has 0600, as readable as any other file of the user.

    Args:
      path: of the file.

    Raises:
      OSError: If it is not the user's.

    Example:
      >>> with tempfile.NamedTemporaryFile() as file:
      ...     make_readable(Path(file.name))
    """
    path.chmod(0o666 & ~_umask())


def write_json_atomic(path: str | os.PathLike[str], value: Any) -> None:
    """Write a value as indented JSON, in one step (see :func:`write_bytes_atomic`).

    Args:
      path: The file to write. Its folder must exist.
      value: Anything JSON can say; paths become strings. NaN and infinity are refused, because
        JSON has no word for them.

    Raises:
      OSError: If the file cannot be written.
      ValueError: If a number is not finite.
      TypeError: If JSON cannot say the value.

    Example:
      >>> write_json_atomic("eval.json", {"dice": 0.9})
    """
    write_bytes_atomic(path, (to_json(value, indent=2) + "\n").encode())


def to_json(value: Any, indent: int | None = None) -> str:
    """Say a value in JSON; paths become strings.

    Args:
      value: anything that JSON can say.
      indent: spaces a level; None for one line.

    Returns:
      The text.

    Raises:
      ValueError: if a number is not finite.
      TypeError: if JSON cannot say the value.
    """
    return json.dumps(value, indent=indent, allow_nan=False, default=os.fspath)


def is_leftover(path: Path) -> bool:
    """Tell whether a process of ours died while writing this file: no file of the user's.

    Args:
      path: the file.

    Returns:
      Whether its name is one of `write_bytes_atomic`'s temporary ones.
    """
    return path.name.startswith(_TEMPORARY_PREFIX) and path.name.endswith(_TEMPORARY_SUFFIX)


def _umask() -> int:
    # The operating system tells the mask only to one who sets it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Force the new name to the disk too, where the system lets folders be opened."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
