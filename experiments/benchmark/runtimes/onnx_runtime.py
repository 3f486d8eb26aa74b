"""ONNX Runtime on the CPU."""

from typing import Any, override

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from experiments.benchmark.job import Job
from experiments.benchmark.runtimes.runtime import ChannelsFirst


class OnnxRuntime(ChannelsFirst):
    """A session with all graph optimizations, its free dimensions fixed.

    Args:
      job: what to run.
      shape: of the images.
    """

    @classmethod
    @override
    def start(cls, job: Job) -> None:
        onnxruntime.get_available_providers()

    def __init__(self, job: Job, shape: tuple[int, ...]) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = job.threads
        options.inter_op_num_threads = 1
        # Threads spin while the network runs, which is fastest, and not while others are timed.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        batch, height, width, _ = shape
        for name, size in (("batch", batch), ("height", height), ("width", width)):
            options.add_free_dimension_override_by_name(name, size)
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(job.model, options, providers=providers)
        self.facts = {
            "precision": job.engine,
            "providers": self._session.get_providers(),
            "graph_optimization_level": "all",
            "intra_op_num_threads": job.threads,
            "spinning": "inside a run",
        }

    @override
    def run(self, x: NDArray) -> NDArray:
        outputs: Any = self._session.run(None, {"image": x})
        return np.asarray(outputs[0])
