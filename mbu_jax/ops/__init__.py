"""The packed network's operations: one folder each, every one with interchangeable engines."""

from mbu_jax.ops.conv3x3 import conv3x3
from mbu_jax.ops.head import head
from mbu_jax.ops.max_pool2x2 import max_pool2x2
from mbu_jax.ops.operation import Choice, Engine, Operation
from mbu_jax.ops.pack_bits import pack_bits
from mbu_jax.ops.stem import stem
from mbu_jax.ops.up_conv2x2 import up_conv2x2

__all__ = [
    "Choice",
    "Engine",
    "Operation",
    "conv3x3",
    "head",
    "max_pool2x2",
    "pack_bits",
    "stem",
    "up_conv2x2",
]
