"""A packed network's convolutions, one by one, on the engine of planes of pixels."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, override

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.benchmark.account import NETWORK
from experiments.benchmark.gpu.layers import input_scales
from experiments.benchmark.job import Job
from experiments.benchmark.runtimes.compiler import start_xla
from experiments.benchmark.runtimes.runtime import Runtime
from mbu_jax.inference import infer
from mbu_jax.ops.bitsliced import library, pixels
from mbu_jax.ops.bitsliced.ceilings import measure_ceilings
from mbu_jax.ops.bitsliced.engines import no_channels
from mbu_jax.packing import PackedConv, word_count
from mbu_jax.saving import load_packed


class Layers(Runtime):
    """The whole network, and each of its convolutions on random planes, one after another.

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
        params = load_packed(job.model)
        self.facts = {"engine": job.engine}
        program = jax.jit(lambda params, x: infer(params, x, implementation=job.engine))
        images = jax.ShapeDtypeStruct(shape, np.uint8)
        self._network = functools.partial(program.lower(params, images).compile(), params)
        self._convs = {
            name: _convolution(params.convs[name], shape[1] // scale, shape[2] // scale, job.engine)
            for name, scale in input_scales(params).items()
        }

    @override
    def run(self, x: NDArray) -> NDArray:
        self.parts = {name: _seconds(conv)[0] for name, conv in self._convs.items()}
        self.parts[NETWORK], logits = _seconds(lambda: np.asarray(self._network(x)))
        # Not while the network is loaded: other processes load theirs at that time.
        self.ceilings = dataclasses.asdict(measure_ceilings())
        return logits


def _convolution(layer: PackedConv, height: int, width: int, engine: str) -> Callable[[], Any]:
    rng = np.random.default_rng(0)
    exists = np.arange(32 * word_count(width)) < width
    inside = np.packbits(exists, bitorder="little").view("<u4")
    sizes = [
        (1, layer.activation_bits, channels, height, inside.size) for channels in layer.segments
    ]
    segments = [
        jnp.asarray(rng.integers(0, 2**32, size, dtype=np.uint32) & inside) for size in sizes
    ]

    @jax.jit
    def program(layer: PackedConv, first: jax.Array, *others: jax.Array) -> jax.Array:
        pair = (first, *(others or [no_channels(first)]))
        return pixels.CONV(pair, layer, implementation=engine, width=width)

    compiled = program.lower(layer, *segments).compile()
    return lambda: jax.block_until_ready(compiled(layer, *segments))


def _seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result
