"""Packed 2x2 transposed convolution as a JAX primitive."""

from mbu_jax.ops.convolutions import convolution
from mbu_jax.ops.up_conv2x2.xla import up_conv2x2_xla

OPERATION = convolution("up_conv2x2", up_conv2x2_xla, transposed=True)
