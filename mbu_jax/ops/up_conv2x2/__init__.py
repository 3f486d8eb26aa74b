"""Packed 2x2 transposed convolution and comparison."""

from mbu_jax.ops.up_conv2x2.api import up_conv2x2

__all__ = ["up_conv2x2"]
