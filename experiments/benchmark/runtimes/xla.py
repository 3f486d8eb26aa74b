"""The full-precision model under XLA."""

from typing import override

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from experiments.benchmark.job import Job
from experiments.benchmark.models import load_model
from experiments.benchmark.runtimes.compiler import start_xla
from experiments.benchmark.runtimes.runtime import Runtime
from mbu_jax.unet import UNetConfig


class Xla(Runtime):
    """The model in evaluation mode, compiled for one shape.

    Args:
      job: what to run.
      shape: of the images.
    """

    @classmethod
    @override
    def start(cls, job: Job) -> None:
        start_xla(job)

    def __init__(self, job: Job, shape: tuple[int, ...]) -> None:
        model = load_model(job.model, UNetConfig.from_dict(job.unet))
        graph, self._state = nnx.split(model)
        program = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
        images = jax.ShapeDtypeStruct(shape, np.uint8)
        self._compiled = program.lower(self._state, images).compile()
        self.facts = {"precision": "float32"}

    @override
    def run(self, x: NDArray) -> NDArray:
        return np.asarray(self._compiled(self._state, x))
