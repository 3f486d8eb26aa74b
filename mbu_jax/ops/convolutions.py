"""The two packed convolutions: one kind of layer, and the same engines for 3x3 and 2x2 kernels."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from mbu_jax.ops.bitsliced import library
from mbu_jax.ops.bitsliced.engines import conv_bitsliced
from mbu_jax.ops.gpu import bmma, popcount, target, tensor_cores
from mbu_jax.ops.operation import Engine, Operation
from mbu_jax.ops.shapes import conv_shape
from mbu_jax.packing import PackedConv


def convolution(name: str, xla: Callable[..., Array], *, transposed: bool) -> Operation:
    """Make the operation of a packed convolution, with all its engines.

    Args:
      name: of the operation.
      xla: its `xla` engine; the others serve both convolutions.
      transposed: whether its layers are transposed convolutions.

    Returns:
      The operation.
    """

    def shape(x: Any, layer: PackedConv) -> jax.ShapeDtypeStruct:
        return conv_shape(x, layer, name, transposed=transposed)

    operation = Operation(name, shape)
    operation.register(Engine("xla", xla))
    operation.register(
        Engine("bitsliced", conv_bitsliced, platforms=("cpu",), absent=library.absent)
    )
    operation.register(
        Engine(
            "bmma",
            bmma.conv_bmma,
            platforms=("cuda",),
            absent=tensor_cores.absent,
            arrange=bmma.arrange,
        )
    )
    operation.register(
        Engine(
            "popcount",
            popcount.conv_popcount,
            platforms=("cuda",),
            absent=target.absent,
            arrange=popcount.arrange,
        )
    )
    return operation
