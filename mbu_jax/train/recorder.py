"""The log of a run: ``metrics.jsonl``, one JSON object a line, and TensorBoard by option."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tensorboardX import SummaryWriter

from mbu_jax.errors import InputError
from mbu_jax.files import write_bytes_atomic

Kind = Literal["train", "validation", "layers"]

_RESERVED = ("step", "epoch", "kind")


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a log, without the half-written last line that a killed process may have left.

    Args:
      path: A ``metrics.jsonl``.

    Returns:
      One dictionary a line, in order: ``step`` (updates done), ``epoch`` (may be fractional),
      ``kind``, and the values by name.

    Raises:
      InputError: If the file is missing, or a line other than the last is damaged.

    Example:
      >>> with Recorder(".", tensorboard=False) as recorder:
      ...     recorder.write(100, 1.0, "train", {"loss": 0.52})
      >>> read_metrics("metrics.jsonl")
      [{'step': 100, 'epoch': 1.0, 'kind': 'train', 'loss': 0.52}]
    """
    return [record for record, _ in _complete_lines(Path(path))]


class Recorder:
    """Appends what was measured to ``metrics.jsonl`` (always) and TensorBoard (by option).

    A line is written whole and handed to the operating system at once, so that a killed process
    loses at most the line that it was writing; opening the log again removes that remainder.

    Args:
      workdir: The run's directory; it must exist.
      tensorboard: Whether to write event files to ``workdir/tensorboard`` too.

    Example:
      >>> with Recorder(".", tensorboard=False) as recorder:
      ...     recorder.write(100, 1.0, "train", {"loss": 0.52, "dice": 0.8})
    """

    def __init__(self, workdir: str | os.PathLike[str], tensorboard: bool) -> None:
        self._path = Path(workdir) / "metrics.jsonl"
        self._tensorboard_folder = Path(workdir) / "tensorboard" if tensorboard else None
        self._tensorboard: SummaryWriter | None = None
        self._purge_step: int | None = None
        self._keep(lambda record: True)
        self._file = self._path.open("ab")

    def write(self, step: int, epoch: float, kind: Kind, values: Mapping[str, Any]) -> None:
        """Append one line.

        Args:
          step: The number of updates done.
          epoch: The number of passes over the training images done, fractions included.
          kind: "train", "validation", or "layers" for figures such as ``density/down_c1``.
          values: Finite numbers by name: Python, NumPy or JAX scalars.

        Raises:
          ValueError: If a value is not finite or a name is reserved; nothing is written then.
          OSError: If the line cannot be written.

        Example:
          >>> with Recorder(".", tensorboard=False) as recorder:
          ...     recorder.write(100, 1.0, "layers", {"density/down_c1": 0.1})
        """
        reserved = [name for name in values if name in _RESERVED]
        if reserved:
            raise ValueError(f"{reserved[0]!r} names a column of the log, not a value")
        numbers = {name: _number(name, value) for name, value in values.items()}
        line = {"step": int(step), "epoch": _number("epoch", epoch), "kind": kind, **numbers}
        self._file.write((json.dumps(line, allow_nan=False) + "\n").encode())
        self._file.flush()
        if self._tensorboard_folder is not None:
            if self._tensorboard is None:
                self._tensorboard = SummaryWriter(
                    str(self._tensorboard_folder), purge_step=self._purge_step
                )
            for name, number in numbers.items():
                self._tensorboard.add_scalar(f"{kind}/{name}", number, int(step))

    def truncate_after(self, step: int) -> None:
        """Drop the lines of later steps, which a run resumed at this step will write again.

        Args:
          step: The step of the checkpoint that the run resumes from; lines of this very step
            stay. 0 starts the log anew, but for lines of step 0.

        Raises:
          InputError: If a line of the log is damaged.
          OSError: If the log cannot be rewritten; it is then as it was.

        Example:
          >>> with Recorder(".", tensorboard=False) as recorder:
          ...     recorder.truncate_after(100)
        """
        self._file.close()
        self._close_tensorboard()
        try:
            self._keep(lambda record: record["step"] <= step)
            self._purge_step = step + 1
        finally:
            self._file = self._path.open("ab")

    def close(self) -> None:
        """Close the log and the event file."""
        self._file.close()
        self._close_tensorboard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Rewrite the log with the complete lines that are wanted, if that changes it."""
        if not self._path.exists():
            return
        content = b"".join(line for record, line in _complete_lines(self._path) if wanted(record))
        if len(content) != self._path.stat().st_size:
            write_bytes_atomic(self._path, content)

    def _close_tensorboard(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()
            self._tensorboard = None


def _number(name: str, value: Any) -> int | float:
    number = value if type(value) is int else float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} is {number}; only finite numbers can be logged")
    return number


def _complete_lines(path: Path) -> list[tuple[dict[str, Any], bytes]]:
    """Each line's record and its bytes; a last line without its line end was cut short."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); is this a run?") from error
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    return [(_record(path, number, line), line) for number, line in enumerate(lines, 1)]


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:  # of JSON as of UTF-8
        record = None
    if not isinstance(record, dict) or not all(name in record for name in _RESERVED):
        raise InputError(f"{path} line {number} is damaged; delete that line")
    return record
