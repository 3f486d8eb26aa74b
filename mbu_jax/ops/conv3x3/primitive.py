"""Packed 3x3 convolution as a JAX primitive."""

from mbu_jax.ops.conv3x3.xla import conv3x3_xla
from mbu_jax.ops.convolutions import convolution

OPERATION = convolution("conv3x3", conv3x3_xla, transposed=False)
