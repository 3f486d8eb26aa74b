"""Packed 2x2 transposed convolution as a JAX primitive, and its engines."""

from typing import Any

import jax

from mbu_jax.ops.bitsliced import library
from mbu_jax.ops.bitsliced.engines import conv_bitsliced
from mbu_jax.ops.gpu import target, tensor_cores
from mbu_jax.ops.operation import Engine, Operation
from mbu_jax.ops.shapes import conv_shape
from mbu_jax.ops.up_conv2x2 import bmma, popcount
from mbu_jax.ops.up_conv2x2.xla import up_conv2x2_xla
from mbu_jax.packing import PackedConv


def _shape(x: Any, layer: PackedConv) -> jax.ShapeDtypeStruct:
    return conv_shape(x, layer, "up_conv2x2", transposed=True)


OPERATION = Operation("up_conv2x2", _shape)
OPERATION.register(Engine("xla", up_conv2x2_xla))
OPERATION.register(Engine("bitsliced", conv_bitsliced, platforms=("cpu",), absent=library.absent))
OPERATION.register(
    Engine(
        "bmma",
        bmma.up_conv2x2_bmma,
        platforms=("cuda",),
        absent=tensor_cores.absent,
        arrange=bmma.arrange,
    )
)
OPERATION.register(
    Engine(
        "popcount",
        popcount.up_conv2x2_popcount,
        platforms=("cuda",),
        absent=target.absent,
        arrange=popcount.arrange,
    )
)
