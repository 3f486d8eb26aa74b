"""What the benchmark's tests share."""

import contextlib
import importlib.util
from collections.abc import Iterator

import pytest

from experiments.benchmark.config import PRESETS
from experiments.benchmark.nursery import Nursery

PEERS = [name for name in ("onnx", "onnxruntime", "openvino") if importlib.util.find_spec(name)]
needs_peers = pytest.mark.skipif(len(PEERS) < 3, reason="the extra `peers` is not installed")
SMOKE = PRESETS["smoke"]


@contextlib.contextmanager
def quick_nursery() -> Iterator[Nursery]:
    """Processes of one device that do not optimize, which takes longer than running here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
        with Nursery() as started:
            yield started
