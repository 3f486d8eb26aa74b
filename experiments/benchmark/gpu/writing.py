"""A folder of exported programs, written."""

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import experiments.benchmark.carried
from experiments.benchmark.carried.folder import FORMAT, MANIFEST
from experiments.command import make_folder
from mbu_jax.errors import InputError
from mbu_jax.files import write_bytes_atomic

_RUN = '''\
"""Measure what this folder holds: python run.py --out OUT --minutes 8."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from experiments.benchmark.carried.main import main

if __name__ == "__main__":
    main()
'''


class Writer:
    """Writes files, and remembers what their content is.

    Args:
      path: a folder that is empty or not there.

    Raises:
      InputError: where it is neither, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise InputError(f"{path} is there already; give --export-to an empty folder")
        self._path = make_folder(path, "--export-to")
        self._files: dict[str, dict[str, Any]] = {}

    def add(self, name: str, content: bytes) -> str:
        """Write a file.

        Args:
          name: its path in the folder.
          content: of the file.

        Returns:
          The name.
        """
        file = self._path / name
        file.parent.mkdir(exist_ok=True)
        write_bytes_atomic(file, content)
        digest = hashlib.sha256(content).hexdigest()
        self._files[name] = {"bytes": len(content), "sha256": digest}
        return name

    def add_program(self, content: bytes) -> str:
        """Write a program; an equal one is written once.

        Args:
          content: of the file.

        Returns:
          Its name.
        """
        name = f"programs/{hashlib.sha256(content).hexdigest()[:20]}.jax"
        return name if name in self._files else self.add(name, content)

    def add_arrays(self, name: str, arrays: dict[str, NDArray]) -> str:
        """Write arrays, compressed.

        Args:
          name: of the file.
          arrays: by name.

        Returns:
          The file's name.
        """
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, **arrays)
        return self.add(name, content.getvalue())

    def finish(self, manifest: dict[str, Any]) -> int:
        """Write the programs that measure, and at last the manifest.

        Args:
          manifest: what the folder holds.

        Returns:
          Bytes of all files.
        """
        carried = Path(experiments.benchmark.carried.__file__).parent
        # Under their own name, so that they are the same modules here and there.
        package = self._path / "experiments" / "benchmark"
        shutil.copytree(carried, package / "carried", ignore=shutil.ignore_patterns("__pycache__"))
        for folder in (package.parent, package):
            (folder / "__init__.py").write_text('"""The GPU benchmark."""\n', encoding="utf-8")
        (self._path / "run.py").write_text(_RUN, encoding="utf-8")
        whole = {"format": FORMAT, **manifest, "files": self._files}
        content = json.dumps(whole, indent=1, allow_nan=False).encode()
        write_bytes_atomic(self._path / MANIFEST, content)
        return len(content) + sum(about["bytes"] for about in self._files.values())
