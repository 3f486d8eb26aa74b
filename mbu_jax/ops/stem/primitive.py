"""The convolution on the image as a JAX primitive, and its engines."""

from typing import Any

import jax
import jax.numpy as jnp

from mbu_jax.ops.bitsliced import library
from mbu_jax.ops.bitsliced.engines import stem_bitsliced
from mbu_jax.ops.gpu import target, tensor_cores
from mbu_jax.ops.operation import Engine, Operation
from mbu_jax.ops.shapes import checked_levels
from mbu_jax.ops.stem import popcount
from mbu_jax.ops.stem.xla import stem_xla
from mbu_jax.packing import PackedStem, word_count


def _shape(levels: Any, layer: PackedStem) -> jax.ShapeDtypeStruct:
    height, width = checked_levels(levels, layer, "stem")[1:3]
    words = word_count(layer.out_channels)
    shape = (levels.shape[0], height, width, layer.activation_bits, words)
    return jax.ShapeDtypeStruct(shape, jnp.uint32)


OPERATION = Operation("stem", _shape)
OPERATION.register(Engine("xla", stem_xla))
OPERATION.register(Engine("bitsliced", stem_bitsliced, platforms=("cpu",), absent=library.absent))
# For a network by the name of bmma: Tensor Cores have no part in it.
for _name, _absent in (("bmma", tensor_cores.absent), ("popcount", target.absent)):
    OPERATION.register(
        Engine(
            _name,
            popcount.stem_popcount,
            platforms=("cuda",),
            absent=_absent,
            arrange=popcount.arrange,
        )
    )
