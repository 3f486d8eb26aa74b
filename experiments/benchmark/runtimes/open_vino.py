"""OpenVINO on the CPU."""

from typing import Any, override

import numpy as np
import openvino
from numpy.typing import NDArray

from experiments.benchmark.job import Job
from experiments.benchmark.runtimes.runtime import ChannelsFirst

_HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16"}


class OpenVino(ChannelsFirst):
    """A network compiled for one shape and for latency.

    Args:
      job: what to run.
      shape: of the images.
    """

    @classmethod
    @override
    def start(cls, job: Job) -> None:
        openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")

    def __init__(self, job: Job, shape: tuple[int, ...]) -> None:
        core = openvino.Core()
        model = core.read_model(job.model)
        batch, height, width, channels = shape
        model.reshape([batch, channels, height, width])
        asked = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": job.threads,
            "INFERENCE_PRECISION_HINT": _HINTS[job.engine],
        }
        compiled = core.compile_model(model, "CPU", asked)
        self._request = compiled.create_infer_request()
        properties = (*asked, "NUM_STREAMS", "ENABLE_CPU_PINNING")
        self.facts = {
            "precision": job.engine,
            **{name.lower(): _plain(compiled.get_property(name)) for name in properties},
            "capabilities": list(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
        }

    @override
    def run(self, x: NDArray) -> NDArray:
        outputs = self._request.infer({0: x}, share_inputs=True, share_outputs=True)
        return np.asarray(outputs[0])


def _plain(value: Any) -> Any:
    """A property as JSON can say it."""
    if isinstance(value, openvino.Type):
        return value.get_type_name()
    return value if isinstance(value, int | float | str) else str(value).rpartition(".")[2]
