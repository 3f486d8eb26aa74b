"""Packed 3x3 convolution as a JAX primitive, and its engines."""

from typing import Any

import jax

from mbu_jax.ops.bitsliced import library
from mbu_jax.ops.bitsliced.engines import conv_bitsliced
from mbu_jax.ops.conv3x3 import bmma, popcount
from mbu_jax.ops.conv3x3.xla import conv3x3_xla
from mbu_jax.ops.gpu import target, tensor_cores
from mbu_jax.ops.operation import Engine, Operation
from mbu_jax.ops.shapes import conv_shape
from mbu_jax.packing import PackedConv


def _shape(x: Any, layer: PackedConv) -> jax.ShapeDtypeStruct:
    return conv_shape(x, layer, "conv3x3", transposed=False)


OPERATION = Operation("conv3x3", _shape)
OPERATION.register(Engine("xla", conv3x3_xla))
OPERATION.register(Engine("bitsliced", conv_bitsliced, platforms=("cpu",), absent=library.absent))
OPERATION.register(
    Engine(
        "bmma",
        bmma.conv3x3_bmma,
        platforms=("cuda",),
        absent=tensor_cores.absent,
        arrange=bmma.arrange,
    )
)
OPERATION.register(
    Engine(
        "popcount",
        popcount.conv3x3_popcount,
        platforms=("cuda",),
        absent=target.absent,
        arrange=popcount.arrange,
    )
)
