"""A run's directory: where its files are, and whether a command may write there."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mbu_jax.errors import InputError
from mbu_jax.files import is_leftover, to_json, write_json_atomic
from mbu_jax.unet import UNetConfig

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_DIFFERENCES_SHOWN = 3


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the ``config.json`` of a run.

    Args:
      path: The run's directory.

    Returns:
      The configuration that the run was started with.

    Raises:
      InputError: If the directory or the file is missing, or the file is damaged.

    Example:
      >>> RunDirectory("runs/old").create_or_resume({"epochs": 30})
      False
      >>> read_config("runs/old")
      {'epochs': 30}
    """
    directory = Path(path)
    file = directory / "config.json"
    try:
        content = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        if not directory.exists():
            raise InputError(f"{directory} does not exist; give the directory of a run") from None
        raise InputError(
            f"{directory} has no config.json, so it is no run; give the directory of a run"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read ({error}); {_CONFIG_REMEDY}") from error
    try:
        config = json.loads(content)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{file} is damaged (line {error.lineno}: {error.msg}); {_CONFIG_REMEDY}"
        ) from error
    if not isinstance(config, dict):
        raise InputError(f"{file} is damaged (it holds no JSON object); {_CONFIG_REMEDY}")
    return config


def read_unet(path: str | os.PathLike[str]) -> UNetConfig:
    """Read what network a run trains.

    Args:
      path: The run's directory.

    Returns:
      The network's configuration.

    Raises:
      InputError: If there is no run, or its ``config.json`` does not describe a network.

    Example:
      >>> run = RunDirectory("runs/narrow")
      >>> run.create_or_resume({"unet": UNetConfig(width=4).to_dict()})
      False
      >>> read_unet("runs/narrow").width
      4
    """
    config = read_config(path)
    if "unet" not in config:
        file = Path(path, "config.json")
        raise InputError(f"{file} has no entry 'unet'; restore it or train again")
    return UNetConfig.from_dict(config["unet"])


class RunDirectory:
    """The directory of one training run, and the names of the files in it.

    Args:
      path: The directory; it need not exist yet.

    Example:
      >>> run = RunDirectory("runs/new")
      >>> run.create_or_resume({"dataset": "nuclei", "epochs": 30})
      False
      >>> run.config
      PosixPath('runs/new/config.json')
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def config(self) -> Path:
        """The options that the run was started with."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: everything measured while training."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder that Orbax keeps the best and the last checkpoints in."""
        return self.path / "checkpoints"

    @property
    def evaluation(self) -> Path:
        """The scores on the validation images."""
        return self.path / "eval.json"

    @property
    def model(self) -> Path:
        """The packed network of the best checkpoint."""
        return self.path / "model.safetensors"

    @property
    def samples(self) -> Path:
        """The folder of pictures: image, truth, prediction, error."""
        return self.path / "samples"

    @property
    def curves(self) -> Path:
        """The picture of everything in ``metrics.jsonl`` over the epochs."""
        return self.path / "curves.png"

    def create_or_resume(
        self,
        config: Mapping[str, Any],
        ignore: frozenset[str] = frozenset(),
        added: Mapping[str, Any] | None = None,
    ) -> bool:
        """Make the directory ready for a run with these options, or refuse.

        A new or empty directory gets a ``config.json``. A directory that already holds a run of
        the same options is resumed, its ``config.json`` then states the newest value of the
        ignored options. Nothing else is ever touched.

        Args:
          config: The run's options, nested mappings of what JSON can say.
          ignore: Options that may differ on resume, by dotted name (``"data.workers"``); the name
            of a group (``"data"``) stands for all that is in it.
          added: Options that an earlier version's run may lack, by dotted name, and the values
            that it amounted to.

        Returns:
          Whether the directory holds an earlier run to resume.

        Raises:
          InputError: If the directory holds a run with other options, or files that are no run,
            or cannot be used.
          OSError: If the disk is full.

        Example:
          >>> RunDirectory("runs/a").create_or_resume({"epochs": 30})
          False
          >>> RunDirectory("runs/a").create_or_resume({"epochs": 40}, frozenset({"epochs"}))
          True
        """
        # Through JSON and back, so that a tuple equals the list that was read from the file.
        asked: dict[str, Any] = json.loads(to_json(config))
        try:
            return self._create_or_resume(asked, ignore, added or {})
        except OSError as error:
            if error.errno in _FULL:
                raise
            raise InputError(
                f"--workdir {self.path} cannot be used as a directory ({error.strerror}); "
                "choose another --workdir"
            ) from error

    def _create_or_resume(
        self, asked: dict[str, Any], ignore: frozenset[str], added: Mapping[str, Any]
    ) -> bool:
        if self.config.exists():
            saved = read_config(self.path)
            self._refuse_difference({**added, **_flatten(saved)}, _flatten(asked), ignore)
            if saved != asked:
                write_json_atomic(self.config, asked)
            return True
        self.path.mkdir(parents=True, exist_ok=True)
        present = sorted(p.name for p in self.path.iterdir() if not is_leftover(p))
        if present:
            raise InputError(
                f"--workdir {self.path} is not empty and holds no run (it has {present[0]} but no "
                "config.json); choose another --workdir"
            )
        write_json_atomic(self.config, asked)
        return False

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only process that trains in the directory, which has to exist.

        Two would delete each other's checkpoints and lines of the log. The system ends the lock of
        a process that dies; where it has no such locks, nothing is checked.

        Yields:
          Nothing.

        Raises:
          InputError: If another process is at it.

        Example:
          >>> with RunDirectory(".").alone():
          ...     pass  # train
        """
        if fcntl is None:
            yield
            return
        handle = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"another process is training in {self.path}; wait until it ends, or choose "
                    "another --workdir"
                ) from None
            except OSError:
                pass  # a file system without locks on folders
            yield
        finally:
            os.close(handle)

    def _refuse_difference(
        self, old: dict[str, Any], new: dict[str, Any], ignore: frozenset[str]
    ) -> None:
        different = [
            f"{name} is {_show(old, name)} there and {_show(new, name)} here"
            for name in sorted(old.keys() | new.keys())
            if old.get(name, _ABSENT) != new.get(name, _ABSENT) and not _ignored(name, ignore)
        ]
        if not different:
            return
        more = len(different) - _DIFFERENCES_SHOWN
        raise InputError(
            f"--workdir {self.path} holds a run with other options: "
            + "; ".join(different[:_DIFFERENCES_SHOWN])
            + (f"; and {more} more" if more > 0 else "")
            + ". Choose another --workdir, or give the same options to resume it"
        )


_ABSENT = object()
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CONFIG_REMEDY = "restore it or start again in another directory"


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names for nested options: {"data": {"workers": 2}} is {"data.workers": 2}."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _show(flat: dict[str, Any], name: str) -> str:
    return json.dumps(flat[name]) if name in flat else "absent"


def _ignored(name: str, ignore: frozenset[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[: i + 1]) in ignore for i in range(len(parts)))
