"""Time a population's update against separate ones: python -m experiments.benchmark_population.

Rounds are interleaved, and the raw seconds are kept.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import command
from experiments.update_timing import UpdateTiming, random_batch
from mbu_jax.architecture import LAYER_NAMES
from mbu_jax.errors import InputError
from mbu_jax.train.config import LossOptions
from mbu_jax.train.optimizer import OptimizerOptions, make_optimizer
from mbu_jax.train.population import Population, members_mesh
from mbu_jax.train.state import Network, TrainState
from mbu_jax.train.step import data_mesh, make_train_step, replicate, shard_batch
from mbu_jax.unet import UNetConfig


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(UpdateTiming):
    """Time one update of several networks: apart, and as a population computed in groups."""

    rows: tuple[str, ...] = ("separate", "1", "4")
    """What to compare with the first: separate, or how many members of a device to compute at
    once, group after group."""

    members: int = 4
    """Networks that are trained; a multiple of the devices."""

    width: int = 16
    """Channels at full resolution."""

    size: int = 64
    """Height and width of the images."""


def main() -> None:
    """Parse the command line, time, print a table."""
    config = command.parse(BenchmarkConfig, {"default": BenchmarkConfig()})
    report = benchmark(config)
    print(f"{'at once':<12}{'s a member':>12}{'ratio':>8}")
    for name, row in report["rows"].items():
        print(f"{name:<12}{row['median'] / config.members:>12.4f}{row['ratio']:>8.2f}")
    print(f"ratio: median over rounds of the time over that of {config.rows[0]}")
    config.write(report)


def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Time every row.

    Args:
      config: what to time.

    Returns:
      Machine, versions, and for each row the ``seconds`` that an update of all members takes (one
      a round), their ``median``, and ``ratio``: the median over rounds of its time over the first
      row's in that round.

    Raises:
      InputError: for a row or a number of members that cannot be.
    """
    config.check()
    devices = jax.local_device_count()
    if config.members < 1 or config.members % devices:
        raise InputError(f"members is {config.members}; give a multiple of the {devices} devices")
    rows = config.compare(config.rows, lambda name: _update(name, config))
    return {**config.describe(), "rows": rows}


def _update(name: str, config: BenchmarkConfig) -> Callable[[], None]:
    """Make an update of all members on fixed random images."""
    batch = random_batch(config.batch_size, config.size)
    optimizer = make_optimizer(OptimizerOptions(), total_steps=1000)
    update = _separate if name == "separate" else _together
    return update(name, config, optimizer, batch)


def _separate(
    _: str, config: BenchmarkConfig, optimizer: Any, batch: dict[str, np.ndarray]
) -> Callable[[], None]:
    # The update of the all-masked network stands for all: zeros cost as much as other weights.
    network, params, stats = Network.create(UNetConfig(width=config.width), seed=0)
    mesh = data_mesh()
    step = make_train_step(network, optimizer, LossOptions(), mesh)
    placed = shard_batch(batch, mesh)
    states = [
        replicate(TrainState(jnp.int32(0), params, stats, optimizer.init(params), None), mesh)
        for _ in range(config.members)
    ]

    def update() -> None:
        for member, state in enumerate(states):
            states[member], _ = step(state, placed)
        jax.block_until_ready(states)

    return update


def _together(
    name: str, config: BenchmarkConfig, optimizer: Any, batch: dict[str, np.ndarray]
) -> Callable[[], None]:
    if not name.isdecimal() or int(name) < 1:
        raise InputError(f"row {name!r} is unknown; give separate or a number of members")
    group = int(name) * jax.local_device_count()
    if config.members % group:
        raise InputError(
            f"row {name!r} computes {group} networks at once; members is {config.members}, give a "
            "multiple of that"
        )
    population = Population(
        UNetConfig(width=config.width),
        optimizer,
        LossOptions(),
        members_mesh(),
        at_once=int(name),
    )
    masked = np.arange(len(LAYER_NAMES)) < np.arange(config.members)[:, None]
    holder = [population.create(config.members, seed=0)]

    def update() -> None:
        holder[0], _ = population.update(masked, holder[0], batch)
        jax.block_until_ready(holder[0])

    return update


if __name__ == "__main__":
    command.run(main)
