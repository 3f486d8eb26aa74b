"""A packed network with one of our engines."""

from typing import override

import jax
import numpy as np
from numpy.typing import NDArray

from experiments.benchmark.job import Job
from experiments.benchmark.runtimes.compiler import start_xla
from experiments.benchmark.runtimes.runtime import Runtime
from mbu_jax.inference import infer
from mbu_jax.ops.bitsliced import library
from mbu_jax.predict import predict
from mbu_jax.saving import load_packed


class Packed(Runtime):
    """A packed network, compiled for one shape.

    Args:
      job: what to run.
      shape: of the images.
    """

    @classmethod
    @override
    def start(cls, job: Job) -> None:
        library.absent()
        start_xla(job)

    def __init__(self, job: Job, shape: tuple[int, ...]) -> None:
        self._engine = job.engine
        self._params = load_packed(job.model)
        self.facts = {"engine": job.engine}
        if job.picture is not None or job.masks is not None:
            return
        program = jax.jit(lambda params, x: infer(params, x, implementation=job.engine))
        images = jax.ShapeDtypeStruct(shape, np.uint8)
        self._compiled = program.lower(self._params, images).compile()

    @override
    def run(self, x: NDArray) -> NDArray:
        return np.asarray(self._compiled(self._params, x))

    @override
    def mask(self, image: NDArray) -> NDArray:
        return predict(self._params, image, implementation=self._engine)
