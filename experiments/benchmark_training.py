"""Time the training step of several networks in one run: python -m experiments.benchmark_training.

Rounds are interleaved, and the raw seconds are kept.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments import command
from experiments.update_timing import UpdateTiming, random_batch
from mbu_jax.errors import InputError
from mbu_jax.layers import QuantizationOptions
from mbu_jax.train.config import LossOptions
from mbu_jax.train.optimizer import OptimizerOptions, make_optimizer
from mbu_jax.train.state import Network, TrainState
from mbu_jax.train.step import data_mesh, make_train_step, replicate, shard_batch
from mbu_jax.unet import UNetConfig


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(UpdateTiming):
    """Time one training update of each network, interleaved, on this machine's devices."""

    networks: tuple[str, ...] = ("full_precision", "all_masked", "binary", "mbu", "all_masked:2")
    """Networks to compare with the first; NAME:2 takes two-bit activations."""

    width: int = 32
    """Channels at full resolution."""


def main() -> None:
    """Parse the command line, time, print a table."""
    config = command.parse(BenchmarkConfig, {"default": BenchmarkConfig()})
    report = benchmark(config)
    print(f"{'network':<18}{'median s':>10}{'min s':>10}{'ratio':>8}")
    for name, row in report["networks"].items():
        print(f"{name:<18}{row['median']:>10.3f}{min(row['seconds']):>10.3f}{row['ratio']:>8.2f}")
    print(f"ratio: median over rounds of the time over that of {config.networks[0]}")
    config.write(report)


def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Time every network.

    Args:
      config: what to time.

    Returns:
      Machine, versions, and for each network its ``seconds`` (one a round), their ``median``,
      and ``ratio``: the median over rounds of its time over the first network's in that round.

    Raises:
      InputError: for an unknown network or a size out of range.
    """
    config.check()
    rows = config.compare(config.networks, lambda name: _update(name, config))
    return {**config.describe(), "networks": rows}


def _update(name: str, config: BenchmarkConfig) -> Callable[[], None]:
    """Make one network's update on fixed random images."""
    preset, _, bits = name.partition(":")
    if bits not in ("", "1", "2"):
        raise InputError(
            f"network {name!r} asks for {bits!r} activation bits; give NAME:1 or NAME:2"
        )
    quantization = QuantizationOptions(activation_bits=int(bits or 1))
    unet = UNetConfig.preset(
        preset,  # pyrefly: ignore[bad-argument-type]  (checked there)
        width=config.width,
        quantization=quantization,
    )
    network, params, stats = Network.create(unet, seed=0)
    mesh = data_mesh()
    optimizer = make_optimizer(OptimizerOptions(), total_steps=1000)
    state = TrainState(jnp.int32(0), params, stats, optimizer.init(params), None)
    holder = [replicate(state, mesh)]
    step = make_train_step(network, optimizer, LossOptions(), mesh)
    batch = shard_batch(random_batch(config.batch_size, config.size), mesh)

    def update() -> None:
        holder[0], _ = step(holder[0], batch)
        jax.block_until_ready(holder[0])

    return update


if __name__ == "__main__":
    command.run(main)
