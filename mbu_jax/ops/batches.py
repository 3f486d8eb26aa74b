"""Foreign calls of a sharded batch: every device does its own images."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def split_over_batch(run: Callable[..., Array], batched: int) -> Callable[..., Array]:
    """Let the partitioner split a function over its batch and nothing else.

    Args:
      run: function of arrays that gives one array.
      batched: how many of the first arguments, and the result, have the batch as axis 0; it
        treats every image alone. The others are whole on every device.

    Returns:
      The same function. A sharded batch stays where it is: nothing is gathered.

    Example:
      >>> import jax.numpy as jnp
      >>> split_over_batch(lambda x, y: x + y, 1)(jnp.ones((2, 1)), jnp.ones((1, 1))).tolist()
      [[2.0], [2.0]]
    """

    def call(*arrays: Array) -> Array:
        split = custom_partitioning(run)
        letters = (f"d{i}" for i in range(1000))

        def axes(rank: int, is_batched: bool) -> list[str]:
            return [next(letters) if i or not is_batched else "b" for i in range(rank)]

        inputs = [axes(array.ndim, i < batched) for i, array in enumerate(arrays)]
        result = axes(_rank_of(run, arrays), True)

        def partition(mesh: Mesh, operands: tuple[Any, ...], result: Any) -> tuple[Any, ...]:
            if mesh.empty:  # several devices, by `jax.set_mesh`, and nothing that is split
                return mesh, run, result.sharding, tuple(each.sharding for each in operands)
            over = NamedSharding(mesh, P(*operands[0].sharding.spec[:1]))
            whole = NamedSharding(mesh, P())
            inner = [over if i < batched else whole for i in range(len(operands))]
            return mesh, run, over, tuple(inner)

        split.def_partition(
            partition=partition,
            sharding_rule=f"{', '.join(map(' '.join, inputs))} -> {' '.join(result)}",
            need_replication_factors=tuple(
                name for part in (*inputs, result) for name in part if name != "b"
            ),
        )
        return split(*arrays)

    return call


def _rank_of(run: Callable[..., Array], arrays: tuple[Array, ...]) -> int:
    return len(jax.eval_shape(run, *arrays).shape)
