"""Logits of packed activations as a JAX primitive, and its engines."""

from typing import Any

import jax
import jax.numpy as jnp

from mbu_jax.errors import InputError
from mbu_jax.ops.bitsliced import library
from mbu_jax.ops.bitsliced.engines import head_bitsliced
from mbu_jax.ops.gpu import target, tensor_cores
from mbu_jax.ops.head import popcount
from mbu_jax.ops.head.xla import head_xla
from mbu_jax.ops.operation import Engine, Operation
from mbu_jax.ops.shapes import words_checked
from mbu_jax.packing import PackedHead, word_count


def _shape(x: Any, layer: PackedHead) -> jax.ShapeDtypeStruct:
    batch, height, width, _, words = words_checked(x, "head")
    if words != word_count(layer.in_channels):
        raise InputError(
            f"head is given {words} words a pixel; its layer takes {word_count(layer.in_channels)}"
        )
    return jax.ShapeDtypeStruct((batch, height, width, layer.classes), jnp.float32)


OPERATION = Operation("head", _shape)
OPERATION.register(Engine("xla", head_xla))
OPERATION.register(Engine("bitsliced", head_bitsliced, platforms=("cpu",), absent=library.absent))
# For a network by the name of bmma: Tensor Cores have no part in it.
for _name, _absent in (("bmma", tensor_cores.absent), ("popcount", target.absent)):
    OPERATION.register(
        Engine(
            _name,
            popcount.head_popcount,
            platforms=("cuda",),
            absent=_absent,
            arrange=popcount.arrange,
        )
    )
