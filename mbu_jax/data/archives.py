"""The files of a zip archive or a folder, listed alike and read only when asked for."""

import functools
import hashlib
import itertools
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mbu_jax.errors import InputError

MAX_FILE_BYTES = 2**30

_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    RuntimeError,  # encrypted
    NotImplementedError,  # a compression that Python lacks
    ValueError,
)


@dataclass(frozen=True)
class Entry:
    """One file of an archive or a folder.

    Attributes:
      name: its path inside, with ``/`` between the parts.
      label: how an error calls it.
      size: bytes, as the archive's directory or the file system says.
      stamp: its CRC-32 in an archive, its time of change in nanoseconds in a folder; with name
        and size it stands for the content without reading it.
      load: reads the bytes.
    """

    name: str
    label: str
    size: int
    stamp: int
    load: Callable[[], bytes]

    def read(self) -> bytes:
        """Reads the whole file.

        Raises:
          InputError: it cannot be read, or says it is larger than ``MAX_FILE_BYTES``.
        """
        if self.size > MAX_FILE_BYTES:
            raise InputError(
                f"{self.label} says it has {self.size} bytes, more than any image; replace it"
            )
        try:
            return self.load()
        except _ZIP_ERRORS as error:
            raise InputError(
                f"{self.label} cannot be read ({error}); copy or download it again"
            ) from error


def list_zip(path: Path) -> list[Entry]:
    """Lists the files of a zip archive in the order of their names.

    Args:
      path: the archive.

    Returns:
      its files, without folders and the hidden files that desktops add.

    Raises:
      InputError: it is missing, truncated, not a zip, or names a file twice.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "a.zip"
      >>> with zipfile.ZipFile(path, "w") as archive:
      ...     archive.writestr("x/1.txt", "one")
      >>> [(entry.name, entry.read()) for entry in list_zip(path)]
      [('x/1.txt', b'one')]
    """
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; check the path") from error
    except _ZIP_ERRORS as error:
        raise InputError(
            f"{path} is not a complete zip archive ({error}); copy or download it again"
        ) from error
    members = [m for m in archive.infolist() if not m.is_dir() and not _is_hidden(m.filename)]
    members.sort(key=lambda member: member.filename)
    for one, next_one in itertools.pairwise(members):
        if one.filename == next_one.filename:
            raise InputError(f"{path} holds {one.filename} twice; make the archive again")
    return [
        Entry(
            name=member.filename,
            label=f"{path}: {member.filename}",
            size=member.file_size,
            stamp=member.CRC,
            load=functools.partial(archive.read, member),
        )
        for member in members
    ]


def list_folder(path: Path, depth: int) -> list[Entry]:
    """Lists the files of a folder in the order of their names.

    Args:
      path: the folder.
      depth: how many levels to go down; 1 is the folder's own files. It keeps a folder given
        by mistake from being walked to the end of the disk.

    Returns:
      its files, hidden ones left out.

    Raises:
      InputError: the folder cannot be read.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> _ = (folder / "1.txt").write_text("one")
      >>> [(entry.name, entry.read()) for entry in list_folder(folder, depth=1)]
      [('1.txt', b'one')]
    """
    try:
        found = sorted(_walk(path, "", depth), key=lambda pair: pair[0])
        return [
            Entry(
                name=name,
                label=file.path,
                size=file.stat().st_size,
                stamp=file.stat().st_mtime_ns,
                load=Path(file.path).read_bytes,
            )
            for name, file in found
        ]
    except OSError as error:
        raise InputError(f"{path} cannot be listed ({error}); check its permissions") from error


def fingerprint(entries: Iterable[Entry]) -> str:
    """Names a set of files by what is in it: 16 hex digits from names, sizes and stamps.

    Args:
      entries: the files, in any order.

    Returns:
      the first 16 hex digits of a SHA-256.

    Example:
      >>> entry = Entry("a", "a", 1, 2, bytes)
      >>> fingerprint([entry]) == fingerprint([entry]) != fingerprint([])
      True
    """
    lines = sorted(f"{entry.name}\0{entry.size}\0{entry.stamp}\n" for entry in entries)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _walk(folder: Path | str, prefix: str, depth: int) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as items:
        for item in items:
            if _is_hidden(item.name):
                continue
            if item.is_file():
                yield prefix + item.name, item
            elif depth > 1 and item.is_dir():
                yield from _walk(item.path, f"{prefix}{item.name}/", depth - 1)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
