"""What can be compared on a GPU: rows by name."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Literal

from mbu_jax.errors import InputError
from mbu_jax.ops.conv3x3.primitive import OPERATION

NETWORKS = ("binary", "all_masked", "all_masked-2bit", "mbu")
AUTO = "auto"

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8"}
_PEERS = (
    "xla-fp16",
    "torch-fp16-compile",
    "torch-fp16-graph",
    "torch-fp16",
    "tensorrt-fp16",
    "tensorrt-int8",
    "xla-bf16",
    "xla-fp32",
    "torch-fp32-compile",
    "torch-fp32-graph",
    "torch-fp32",
)
"""The fastest FP16 ones first: what time is left goes to the others."""

_BESIDE_OURS = 3  # of them, that must be in memory with our automatic choices

_PACKED = re.compile(
    r"(?P<network>(binary|all_masked|mbu|pow2)(-2bit)?):(?P<engine>\w+)(?P<graph>@graph)?"
)
# Kernels are captured as one CUDA graph, as peers' are.
_GRAPH = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL",
    "xla_gpu_graph_min_graph_size": 1,
}
_TOLERANCE = {"fp32": 0.01, "fp16": 0.05, "bf16": 0.2, "int8": 0.5}
"""Largest difference from the float32 model's logits, relative to the largest logit."""

_LOADING_SECONDS = {"jax": 90.0, "torch": 150.0, "tensorrt": 240.0}
_BYTES_PER_PIXEL = {"fp32": 2200.0, "fp16": 1100.0, "bf16": 1100.0, "int8": 1100.0}
"""That a float network may hold at once, skips, concatenations and workspace included."""

_OUR_BYTES_PER_PIXEL = 80.0


@dataclasses.dataclass(frozen=True)
class GpuRow:
    """A network on a runtime.

    Attributes:
      name: what it is called: RUNTIME-PRECISION, with -MODE behind, or NETWORK:ENGINE.
      network: ``full_precision``, or a packed network.
      runtime: ``jax``, ``torch`` or ``tensorrt``.
      engine: of a packed network its engine or ``auto``, of a float one the precision.
      mode: ``graph`` or ``compile``, or nothing.
    """

    name: str
    network: str
    runtime: Literal["jax", "torch", "tensorrt"]
    engine: str
    mode: str = ""

    @classmethod
    def parse(cls, name: str) -> "GpuRow":
        """Read a name.

        Args:
          name: such as ``xla-fp16`` or ``all_masked-2bit:bmma``.

        Returns:
          The row.

        Raises:
          InputError: for an unknown name.

        Example:
          >>> GpuRow.parse("torch-fp16-compile").mode
          'compile'
        """
        if name in _PEERS:
            runtime, precision, *mode = name.split("-")
            known = "jax" if runtime == "xla" else runtime
            return cls(name, "full_precision", known, precision, *mode)  # pyrefly: ignore
        found = _PACKED.fullmatch(name)
        if found is None:
            raise InputError(
                f"unknown row {name!r}; choose from {', '.join(_PEERS)}, or name a packed network "
                "and an engine, such as mbu:auto"
            )
        engines = [AUTO, *dict.fromkeys(engine.name for engine in OPERATION.engines)]
        # Of the operations on planes; that on words has no such engine.
        engines.append("bitsliced")
        if found["engine"] not in engines:
            raise InputError(
                f"row {name!r} has an unknown engine; choose one of {', '.join(engines)}"
            )
        mode = "graph" if found["graph"] else ""
        return cls(name, found["network"], "jax", found["engine"], mode)

    @property
    def ours(self) -> bool:
        """Whether it is one of our engines."""
        return self.network != "full_precision"

    @property
    def implementation(self) -> str | None:
        """The name of the engine that `mbu_jax.infer` takes."""
        return None if self.engine == AUTO else self.engine

    def entry(self, programs: dict[str, Any]) -> dict[str, Any]:
        """Describe it for the machine that measures.

        Args:
          programs: by shape, the files.

        Returns:
          What the manifest holds of it.
        """
        dtype = None if self.ours else _DTYPES.get(self.engine)
        return {
            "name": self.name,
            "network": self.network,
            "runtime": self.runtime,
            "dtype": dtype,
            "mode": self.mode,
            "programs": programs,
            "compiler_options": _GRAPH if self.ours and self.mode == "graph" else {},
            # What times algorithms while it loads must not be disturbed.
            "tunes": not self.ours,
            "tolerance": 0.0 if self.ours else _TOLERANCE[self.engine],
            "loading_seconds": _LOADING_SECONDS[self.runtime],
            "bytes_per_pixel": _OUR_BYTES_PER_PIXEL if self.ours else _BYTES_PER_PIXEL[self.engine],
            "about": {
                "ours": self.ours,
                "network": self.network,
                "engine": self.engine,
                "mode": self.mode,
            },
        }


def rows_of(
    names: Sequence[str] | None, engines: Sequence[str], given: Sequence[str] = (), *, main: bool
) -> list[GpuRow]:
    """List the rows of one shape, the most important first: these are timed in turn.

    Args:
      names: that were asked for, or None for all.
      engines: that can be exported.
      given: packed networks, of each of which there is by default the automatic choice.
      main: whether the shape is one of those that matter most; on the others every network has
        its automatic choice alone.

    Returns:
      The rows.

    Raises:
      InputError: for an unknown or repeated name.
    """
    if names is not None:
        if len(set(names)) < len(names) or not names:
            raise InputError("rows names one twice, or none; name each once")
        return [GpuRow.parse(name) for name in names]
    choices = [f"{network}:{AUTO}" for network in dict.fromkeys((*NETWORKS, *given))]
    named = []
    if main:
        named += [f"{network}:{engine}" for network in NETWORKS for engine in engines]
        named += [f"{network}:{AUTO}@graph" for network in ("all_masked", "binary")]
    first, others = _PEERS[:_BESIDE_OURS], _PEERS[_BESIDE_OURS:]
    return [GpuRow.parse(name) for name in (*choices, *first, *named, *others)]
