"""Lists of non-zero weights as a JAX primitive, and its engines."""

from typing import Any

import jax
import jax.numpy as jnp

from mbu_jax.errors import InputError
from mbu_jax.ops.bitsliced_lists.bitsliced import bitsliced_lists_kernel
from mbu_jax.ops.bitsliced_lists.xla import bitsliced_lists_xla
from mbu_jax.ops.gpu import target
from mbu_jax.ops.operation import Engine, Operation
from mbu_jax.packing import WORD_BITS


def _shape(weights: Any, planes: Any, *, channel_step: int, zeros: int) -> jax.ShapeDtypeStruct:
    if (
        (weights.dtype, planes.dtype) != (jnp.uint32, jnp.int32)
        or len(weights.shape) != 3
        or planes.shape != weights.shape[2:]
    ):
        raise InputError(
            "bitsliced_lists takes weights, uint32 [M, L, S], and planes, int32 [S], not "
            f"{weights.dtype}{list(weights.shape)} and {planes.dtype}{list(planes.shape)}"
        )
    return jax.ShapeDtypeStruct((*weights.shape[:2], WORD_BITS * weights.shape[2]), jnp.int32)


OPERATION = Operation("bitsliced_lists", _shape)
OPERATION.register(Engine("xla", bitsliced_lists_xla))
OPERATION.register(
    Engine("bitsliced", bitsliced_lists_kernel, platforms=("cuda",), absent=target.absent)
)
