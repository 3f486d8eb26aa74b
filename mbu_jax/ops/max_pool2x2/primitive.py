"""Packed max-pool as a JAX primitive, and its engines."""

from typing import Any

import jax
import jax.numpy as jnp

from mbu_jax.errors import InputError
from mbu_jax.ops.gpu import target, tensor_cores
from mbu_jax.ops.max_pool2x2.popcount import max_pool2x2_popcount
from mbu_jax.ops.max_pool2x2.xla import max_pool2x2_xla
from mbu_jax.ops.operation import Engine, Operation
from mbu_jax.ops.shapes import words_checked


def _shape(x: Any, layer: None) -> jax.ShapeDtypeStruct:
    batch, height, width, planes, words = words_checked(x, "max_pool2x2")
    if height % 2 or width % 2:
        raise InputError(f"max_pool2x2 takes an even height and width, not {height}x{width}")
    return jax.ShapeDtypeStruct((batch, height // 2, width // 2, planes, words), jnp.uint32)


OPERATION = Operation("max_pool2x2", _shape)
OPERATION.register(Engine("xla", max_pool2x2_xla))
# For a network by that name: Tensor Cores have no part in it.
OPERATION.register(
    Engine("bmma", max_pool2x2_popcount, platforms=("cuda",), absent=tensor_cores.absent)
)
OPERATION.register(
    Engine("popcount", max_pool2x2_popcount, platforms=("cuda",), absent=target.absent)
)
