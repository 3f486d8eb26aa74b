"""What can be compared: rows by name, and what each lacks here."""

import dataclasses
import importlib.util
import re
from collections.abc import Sequence
from typing import Literal

from mbu_jax.errors import InputError
from mbu_jax.ops.conv3x3.primitive import OPERATION

_PEERS = 'pip install "mbu-jax[peers]"'
_NEEDS = {
    "xla-fp32": (),
    "onnxruntime-fp32": ("onnx", "onnxruntime"),
    "onnxruntime-int8": ("onnx", "onnxruntime"),
    "openvino-fp32": ("onnx", "openvino"),
    "openvino-bf16": ("onnx", "openvino"),
    "openvino-int8": ("onnx", "onnxruntime", "openvino"),
}
_ENGINES = {engine.name: engine for engine in OPERATION.engines}
_PACKED = re.compile(r"(?P<network>binary|all_masked|mbu|pow2)(?P<bits>-2bit)?:(?P<engine>\w+)")

DEFAULT_ROWS = (
    *_NEEDS,
    "binary:bitsliced",
    "all_masked:bitsliced",
    "all_masked-2bit:bitsliced",
)
"""Rows that are compared where none are named, besides those of the packed networks given."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A network on a runtime.

    Attributes:
      name: what it is called: RUNTIME-PRECISION, or NETWORK:ENGINE.
      network: ``full_precision``, or ``binary``, ``all_masked``, ``mbu``, ``pow2``, with ``-2bit``
        behind where activations have two bits.
      runtime: ``xla``, ``onnxruntime``, ``openvino``, or ``packed``.
      engine: a packed network's engine, or the precision.
    """

    name: str
    network: str
    runtime: Literal["xla", "onnxruntime", "openvino", "packed"]
    engine: str

    @classmethod
    def parse(cls, name: str) -> "Row":
        """Read a name.

        Args:
          name: such as ``openvino-int8`` or ``all_masked-2bit:bitsliced``.

        Returns:
          The row.

        Raises:
          InputError: for an unknown name.

        Example:
          >>> Row.parse("all_masked-2bit:bitsliced").network
          'all_masked-2bit'
        """
        if name in _NEEDS:
            runtime, _, precision = name.partition("-")
            return cls(name, "full_precision", runtime, precision)  # pyrefly: ignore
        found = _PACKED.fullmatch(name)
        if found is None:
            raise InputError(
                f"unknown row {name!r}; choose from {', '.join(DEFAULT_ROWS)}, or name another "
                "packed network and engine, such as mbu:xla"
            )
        if found["engine"] not in _ENGINES:
            raise InputError(
                f"row {name!r} has an unknown engine; choose one of {', '.join(_ENGINES)}"
            )
        return cls(name, found["network"] + (found["bits"] or ""), "packed", found["engine"])

    def obstacle(self) -> str | None:
        """Say what it lacks on this machine.

        Returns:
          What is missing and the remedy, or None where it can run.
        """
        if self.runtime == "packed":
            return _ENGINES[self.engine].obstacle("cpu")
        missing = [name for name in _NEEDS[self.name] if importlib.util.find_spec(name) is None]
        return f"{', '.join(missing)} not installed; {_PEERS}" if missing else None


def choose_rows(
    names: Sequence[str] | None, baselines: Sequence[str] = (), given: Sequence[str] = ()
) -> tuple[list[Row], list[str]]:
    """Look rows up, and leave out by default what cannot run here.

    Args:
      names: of rows, or None for the default ones.
      baselines: names of rows, which need not be timed.
      given: packed networks, each of which is by default a row of the best engine here.

    Returns:
      The rows, and a line for each reason to leave some out.

    Raises:
      InputError: for an unknown or repeated name, none at all, or a named row that cannot run.
    """
    best = OPERATION.choose("cpu").engine.name
    default = dict.fromkeys([*DEFAULT_ROWS, *(f"{network}:{best}" for network in given)])
    rows = [Row.parse(name) for name in (default if names is None else names)]
    for name in baselines:
        Row.parse(name)
    if not rows:
        raise InputError("rows is empty; name at least one")
    if len({row.name for row in rows}) < len(rows):
        raise InputError("rows names one twice; name each once")
    lacking: dict[str, list[str]] = {}
    for row in rows:
        if reason := row.obstacle():
            lacking.setdefault(reason, []).append(row.name)
    if names is not None:
        for reason, absent in lacking.items():
            raise InputError(f"rows names {', '.join(absent)}, which cannot run: {reason}")
    left_out = {name for absent in lacking.values() for name in absent}
    lines = [f"left out {', '.join(absent)}: {reason}" for reason, absent in lacking.items()]
    return [row for row in rows if row.name not in left_out], lines
