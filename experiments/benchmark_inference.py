"""Time packed inference against the float network: python -m experiments.benchmark_inference.

Both run under XLA on the same device, in interleaved rounds; the raw seconds are kept. Memory is
what the compiler reserves for intermediate results; the `bitsliced` engine's own, its lists of
non-zeros and a tile a thread, is not in it.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from tqdm import tqdm

from experiments import command
from experiments.timing import check_rounds, compare, machine, time_interleaved
from mbu_jax.files import write_json_atomic
from mbu_jax.inference import infer, pack
from mbu_jax.layers import QuantizationOptions
from mbu_jax.unet import UNet, UNetConfig


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Time inference of each network, interleaved, on this machine's first device."""

    networks: tuple[str, ...] = (
        "full_precision", "binary:xla", "all_masked:xla", "binary", "all_masked"
    )  # fmt: skip
    """Networks to compare with the first: full_precision runs as the model, others packed.
    NAME:ENGINE runs them with that engine, NAME with the best that the device has."""

    activation_bits: int = 1
    """Of the packed networks."""

    density: float = 0.1
    """Share of non-zeros of masked weights."""

    width: int = 64
    """Channels at full resolution."""

    size: int = 512
    """Height and width of the images."""

    batch_size: int = 1
    """Images at once."""

    rounds: int = 7
    """Times that every network is timed, after one run to compile and one to warm up."""

    out: Path | None = None
    """JSON file for the raw samples."""


def main() -> None:
    """Parse the command line, time, print a table."""
    config = command.parse(BenchmarkConfig, {"default": BenchmarkConfig()})
    report = benchmark(config)
    print(f"{'network':<16}{'median s':>10}{'ratio':>8}{'temporary MB':>14}{'ratio':>8}")
    for name, row in report["networks"].items():
        print(
            f"{name:<16}{row['median']:>10.3f}{row['ratio']:>8.3f}"
            f"{row['temporary_bytes'] / 1e6:>14.1f}{row['temporary_ratio']:>8.3f}"
        )
    print(f"ratio: to {config.networks[0]}; of times, the median over rounds")
    if config.out is not None:
        write_json_atomic(config.out, report)


def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Time every network.

    Args:
      config: what to time.

    Returns:
      Machine, versions, and for each network what `experiments.timing.compare` gives,
      ``temporary_bytes`` (the compiled program's memory for intermediate results) and
      ``temporary_ratio`` to the first network's.

    Raises:
      InputError: for an unknown network or a size out of range.
    """
    check_rounds(config.rounds)
    programs = {name: _program(name, config) for name in tqdm(config.networks, desc="compiling")}
    rows = compare(
        time_interleaved({name: run for name, (run, _) in programs.items()}, config.rounds)
    )
    first = programs[config.networks[0]][1]
    for name, (_, temporary) in programs.items():
        rows[name] |= {"temporary_bytes": temporary, "temporary_ratio": temporary / first}
    return {"config": dataclasses.asdict(config), **machine(), "networks": rows}


def _program(name: str, config: BenchmarkConfig) -> tuple[Callable[[], None], int]:
    """Compile one network on a fixed random image, warm it up, and read its temporary memory."""
    preset, _, engine = name.partition(":")
    unet = UNetConfig.preset(
        preset,  # pyrefly: ignore[bad-argument-type]  (checked there)
        width=config.width,
        quantization=QuantizationOptions(
            activation_bits=config.activation_bits, density=config.density
        ),
    )
    model = UNet(unet, rngs=nnx.Rngs(0))
    model.eval()
    rng = np.random.default_rng(0)
    shape = (config.batch_size, config.size, config.size, unet.in_channels)
    images = jnp.asarray(rng.integers(0, 256, shape, dtype=np.uint8))
    if preset == "full_precision":
        graph, state = nnx.split(model)
        program = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
        arguments: tuple[Any, Array] = (state, images)
    else:
        program = jax.jit(lambda params, x: infer(params, x, implementation=engine or None))
        arguments = (pack(model), images)
    compiled = program.lower(*arguments).compile()

    def run() -> None:
        jax.block_until_ready(compiled(*arguments))

    run()
    run()
    memory = compiled.memory_analysis()
    assert memory is not None, "XLA knows the memory of every program it compiled"
    return run, memory.temp_size_in_bytes


if __name__ == "__main__":
    command.run(main)
