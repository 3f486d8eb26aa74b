"""A folder of exported programs: its manifest and files, read with care."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.benchmark.carried.errors import CarriedError

FORMAT = 1
MANIFEST = "manifest.json"
_LARGEST_FILE = 2**30
_PARTS = {
    "made_for": dict,
    "config": dict,
    "networks": dict,
    "images": dict,
    "expected": dict,
    "rows": list,
    "steps": list,
    "ceilings": list,
    "layers": list,
    "files": dict,
}


class Folder:
    """Programs, weights and images.

    Args:
      path: of the folder.

    Attributes:
      path: of the folder.
      manifest: what is in it.

    Raises:
      CarriedError: for a folder that is none, or one that is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = _manifest(path)
        for name, about in self.manifest["files"].items():
            file = self._inside(name)
            if not file.is_file():
                raise CarriedError(f"{file} is missing; export the folder anew")
            if file.stat().st_size != about["bytes"] or about["bytes"] > _LARGEST_FILE:
                raise CarriedError(f"{file} does not have the size noted; export the folder anew")

    def read(self, name: str) -> bytes:
        """Read a file.

        Args:
          name: its path inside the folder, with slashes.

        Returns:
          The content, which is the one that was exported.

        Raises:
          CarriedError: where it is not.
        """
        about = self.manifest["files"].get(name)
        if about is None:
            raise CarriedError(f"{self.path / MANIFEST} does not list {name}; export it anew")
        content = self._inside(name).read_bytes()
        if hashlib.sha256(content).hexdigest() != about["sha256"]:
            raise CarriedError(f"{self.path / name} is damaged; export the folder anew")
        return content

    def arrays(self, name: str) -> dict[str, NDArray]:
        """Read a file of arrays.

        Args:
          name: of the file, as NumPy's ``savez`` writes them.

        Returns:
          The arrays by name.
        """
        self.read(name)
        with np.load(self._inside(name), allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    def _inside(self, name: str) -> Path:
        file = (self.path / name).resolve()
        if not file.is_relative_to(self.path.resolve()):
            raise CarriedError(
                f"{self.path / MANIFEST} names {name}, which is outside; export anew"
            )
        return file


def _manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file():
        raise CarriedError(
            f"{path} has no {MANIFEST}; give a folder that python -m experiments.benchmark "
            "--device gpu --export-to made"
        )
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CarriedError(f"{file} is no JSON ({error}); export the folder anew") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise CarriedError(f"{file} is not of format {FORMAT}; export the folder anew")
    for part, kind in _PARTS.items():
        if not isinstance(found.get(part), kind):
            raise CarriedError(f"{file} lacks {part}; export the folder anew")
    for name, about in found["files"].items():
        good = isinstance(about, dict) and isinstance(about.get("sha256"), str)
        if not good or type(about.get("bytes")) is not int:
            raise CarriedError(f"{file} does not describe {name}; export the folder anew")
    return found
